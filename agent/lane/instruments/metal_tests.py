"""The operational test of a metal detector: a key switch at the pillar announces it.

While the switch is on, walks are a test: they make no passage and raise no alarm, and are counted.
When it is released an audit record says what was seen: "passed" where at least ``test_alarms``
alarms came (a random selection is none), "failed" otherwise. Where the switch was lost or left on,
or the agent stopped, fewer alarms prove nothing: "broken_off". A switch announces the test of the
metal detectors that ``metal_test_of`` gives it; ``metal_test`` is that of all others of the lane.

A switch that is left on would hide people: after LONGEST_TEST_S walks count again.
"""

from __future__ import annotations

from typing import Literal

from agent.lane.alarms import clear_standing, fault, stand
from agent.lane.instruments import walks
from agent.lane.instruments.walks import Metal, MetalTest
from agent.lane.moment import Moment
from agent.records import Audit

LONGEST_TEST_S = 1800.0
"""A switch that is on for so long was forgotten: a choice, far beyond a shift's test."""

Ended = Literal["released", "left_on", "lost", "agent_stop"]


def on_switch(moment: Moment, *, module: str, name: str, active: bool | None) -> None:
    """Begin the tests where the switch comes on, end them where it falls or is lost."""
    switch = (module, name)
    if active:
        new = MetalTest(started=moment.stamp, switch=switch)
        started = dict.fromkeys(_announced(moment, module, name), new)
        moment.of(Metal).metal_tests = {**started, **moment.of(Metal).metal_tests}
        return
    end(moment, "lost" if active is None else "released", switch)
    if active is False:
        moment.of(Metal).switches_left_on -= {switch}
        if module not in {left_on for left_on, _ in moment.of(Metal).switches_left_on}:
            clear_standing(moment, module, "test_switch_left_on")


def _announced(moment: Moment, module: str, name: str) -> tuple[str, ...]:
    """Return the metal detectors whose test a switch announces."""
    metals, contacts = moment.rules.metals, moment.rules.contacts
    if name != contacts[module].metal_test:
        own = contacts[module].metal_test_of
        return tuple(device for device in metals if own.get(device) == name)
    elsewhere = {device for options in contacts.values() for device in options.metal_test_of}
    return tuple(device for device in metals if device not in elsewhere)


def end(moment: Moment, how: Ended, switch: tuple[str, str] | None = None) -> None:
    """End the tests of a switch, or all, and say what each has seen; nothing where none runs."""
    running = moment.of(Metal).metal_tests
    ended = {d: test for d, test in running.items() if switch in (None, test.switch)}
    moment.of(Metal).metal_tests = {d: test for d, test in running.items() if d not in ended}
    for device, test in ended.items():
        _say(moment, device, test, how)
        walks.settle(moment, device)


def end_left_on(moment: Moment, switch: tuple[str, str]) -> None:
    """A switch was on for too long: walks count again, and that is a fault until it falls."""
    end(moment, "left_on", switch)
    moment.of(Metal).switches_left_on |= {switch}
    module, name = switch
    minutes = round(LONGEST_TEST_S / 60)
    text = (
        f"{module}: the metal detector's test switch {name} was on for {minutes} min and walks "
        "count again; release it"
    )
    stand(moment, fault(module, "test_switch_left_on", text))


def _say(moment: Moment, device: str, test: MetalTest, how: Ended) -> None:
    needed = moment.rules.metals[device].test_alarms
    result = "failed" if how == "released" else "broken_off"
    if test.alarms >= needed:
        result = "passed"
    data: dict[str, object] = {
        "device": device,
        "started": test.started,
        "ended": moment.stamp,
        "ended_by": how,
        "alarms": test.alarms,
        "alarms_needed": needed,
        "passages": test.passages,
        "result": result,
    }
    moment.records.append(
        Audit(stamp=moment.stamp, kind="test", lane=moment.rules.lane_id, data=data)
    )
    if result == "passed":
        moment.of(Metal).metal_tested = {**moment.of(Metal).metal_tested, device: moment.stamp}
        clear_standing(moment, device, "test_due")
        clear_standing(moment, device, "test_failed")
    elif result == "failed":
        text = (
            f"{device}: the test gave {test.alarms} of {needed} alarms; take the detector out of "
            "use, check it and test it again"
        )
        stand(moment, fault(device, "test_failed", text))


def watch(moment: Moment) -> None:
    """Let ``test_due`` stand where no test that passed is known, or the last is too long ago.

    After a start nothing is known of earlier tests: the monotonic clock does not reach back behind
    a boot, and the wall clock may be wrong. So a test is due at once, which is a mere notice.
    """
    for device, options in moment.rules.metals.items():
        if options.test_every_h is None:
            clear_standing(moment, device, "test_due")
        elif device not in moment.of(Metal).metal_tested:
            text = f"{device}: no operational test is known to have passed; test the detector"
            stand(moment, fault(device, "test_due", text, severity="notice"))


def expire(moment: Moment, device: str) -> None:
    """The last test that passed is too long ago."""
    moment.of(Metal).metal_tested = {
        d: s for d, s in moment.of(Metal).metal_tested.items() if d != device
    }
    hours = moment.rules.metals[device].test_every_h
    text = f"{device}: the last test that passed was {hours:g} h ago; test the detector"
    stand(moment, fault(device, "test_due", text))
