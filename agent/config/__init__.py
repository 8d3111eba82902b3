"""The configuration in ``/etc/checkpointd``: read, checked, compared, and its last good copy kept.

::

    gateway.toml        [gateway] who this gateway is, [mqtt] the way to the centre, [journal]
    lanes/NAME.toml     NAME is the lane id: [lane] its rules, [devices.NAME] one table a device

A device's table holds the options of every device, of its kind and of its driver, side by side.
Relative file names begin in the configuration directory.
"""

from agent.config.change import Difference, difference, load_last_good, save_last_good
from agent.config.listing import DriverListing, describe_drivers
from agent.config.load import Examined, examine, load, load_lane
from agent.config.problems import ConfigError, Problem, report

__all__ = [
    "ConfigError",
    "Difference",
    "DriverListing",
    "Examined",
    "Problem",
    "describe_drivers",
    "difference",
    "examine",
    "load",
    "load_lane",
    "load_last_good",
    "report",
    "save_last_good",
]
