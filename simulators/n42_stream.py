"""An instrument that streams N42.42-2012 documents, as RSI's RS-350 does: truth to XML over TCP.

One document a second between STX (0x02) and ETX (0x03). Each has a Foreground measurement with the
spectrum in two layouts, 1,024 channels of 3 keV and 256 of 0.046 keV times the channel squared,
counts with runs of zeroes coded (``CountedZeroes``: 0 and how many), gross counts of the gamma
detector VD1 and the neutron detector VD1N, and the dose rate. When its own analysis alarms, one
more document follows with the background, the last seconds as one measurement, and the result.

Source: ANSI N42.42-2012 (schema n42.xsd); the form of a real unit's stream in the OSCAR lane
software (MPL-2.0). The unit's analysis is not public: here it alarms on 6 sigma more than the
background in the last 3 s, or 8 sigma of neutrons, and names what the scene says is strongest.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from xml.sax.saxutils import escape

import numpy as np

from simulators.clock import SceneClock
from simulators.ports import Send, TcpPort
from simulators.scene import Scene
from simulators.spectra import Channels
from simulators.spectrometer import Counted, Spectrometer

CHANNELS = Channels(count=1024, kev_per_channel=3.0)
_SUMMED = 3  # seconds in an alarm's summary
_BACKGROUND_S = 60
_GAMMA_SIGMA, _NEUTRON_SIGMA = 6.0, 8.0
_SILENT_S = 10.0  # after an alarm, at least
_SHORTEST_WAIT_S = 0.002
# Channel i of the compressed layout begins at 0.046 i² keV; the last takes all above it.
_SQUARED_CHANNEL = np.minimum(np.sqrt((np.arange(1024) + 0.5) * 3.0 / 0.046), 255.0).astype(int)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How the instrument is set; the defaults are the recorded RS-350's."""

    says_occupancy: bool = False  # a portal's OccupancyIndicator and speed
    first_lacks_stx: bool = True  # as in the recording
    began: datetime = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)  # the wall clock at scene time 0
    battery_percent: int = 70


class N42Instrument:
    """The instrument; `advance` returns every framed document up to a scene time."""

    def __init__(self, scene: Scene, options: StreamOptions | None = None) -> None:
        self.scene = scene
        self.options = options or StreamOptions()
        self._spectrometer = Spectrometer(scene, crystal="NaI", channels=CHANNELS)
        self._seconds = 0
        self._recent: deque[Counted] = deque(maxlen=_SUMMED)
        self._background: deque[Counted] = deque(maxlen=_BACKGROUND_S)
        self._quiet_until_s: dict[str, float] = {}  # by category
        self._is_first = True
        self.alarmed_s: list[float] = []  # for a test to look at

    @property
    def wake_s(self) -> float:
        """When something is next to be done [scene s]."""
        return float(self._seconds + 1)

    def advance(self, until_s: float) -> list[tuple[float, bytes]]:
        """Return the documents up to ``until_s`` that were not returned before."""
        said = []
        while self._seconds + 1 <= until_s + 1e-9:
            self._seconds += 1
            said += [(float(self._seconds), data) for data in self._second()]
        return said

    def _second(self) -> Iterable[bytes]:
        end_s = float(self._seconds)
        self._spectrometer.advance(end_s)
        counted = self._spectrometer.take()
        self._recent.append(counted)
        yield self._framed(self._measurement("M-1", "Foreground", [counted], end_s))
        found = self._analysed(end_s)
        if found:
            self.alarmed_s.append(end_s)
            yield self._framed(self._alarm(found, end_s))
        mix = self.scene.mix(end_s - 1.0, end_s)
        near_cps = sum(source.cps for source in mix.sources)
        if mix.kept == 1.0 and near_cps < 0.02 * mix.background_cps and not found:
            self._background.append(counted)

    def _analysed(self, end_s: float) -> list[tuple[str, str]]:
        """Return (category, what) of each alarm of the unit's own analysis."""
        if len(self._recent) < _SUMMED or len(self._background) < 20:
            return []
        found = []
        background = sum(int(c.channels.sum()) for c in self._background) / len(self._background)
        sigma = _sigma(sum(int(c.channels.sum()) for c in self._recent), _SUMMED * background)
        sources = self.scene.mix(end_s - _SUMMED, end_s).sources
        if sigma > _GAMMA_SIGMA and sources:
            found.append(("Isotope", max(sources, key=lambda s: s.cps).name))
        quiet = sum(c.neutrons for c in self._background) / len(self._background)
        neutrons = sum(c.neutrons for c in self._recent)
        if _sigma(neutrons, _SUMMED * max(quiet, 0.1)) > _NEUTRON_SIGMA:
            found.append(("Neutron", "Neutron"))
        found = [one for one in found if end_s >= self._quiet_until_s.get(one[0], 0.0)]
        self._quiet_until_s |= dict.fromkeys((one[0] for one in found), end_s + _SILENT_S)
        return found

    def _alarm(self, found: list[tuple[str, str]], end_s: float) -> str:
        background = self._measurement("BG", "Background", list(self._background), end_s - 60.0)
        summary = self._measurement("M-1", "Foreground", list(self._recent), end_s)
        alarms = "".join(
            f'<RadAlarm id="ALRM{i}" radDetectorInformationReferences='
            f'"{"VD1N" if category == "Neutron" else "VD1"}">'
            f"<RadAlarmCategoryCode>{category}</RadAlarmCategoryCode>"
            f"<RadAlarmDescription>{category} - {escape(what)}</RadAlarmDescription></RadAlarm>"
            for i, (category, what) in enumerate(found)
        )
        nuclides = "".join(
            "<Nuclide><NuclideIdentifiedIndicator>true</NuclideIdentifiedIndicator>"
            f"<NuclideName>{escape(what)}</NuclideName>"
            "<NuclideIDConfidenceValue>95</NuclideIDConfidenceValue></Nuclide>"
            for category, what in found
            if category == "Isotope"
        )
        results = f"<NuclideAnalysisResults>{nuclides}</NuclideAnalysisResults>" if nuclides else ""
        return f"{background}{summary}<AnalysisResults>{alarms}{results}</AnalysisResults>"

    def _measurement(self, name: str, code: str, counted: list[Counted], end_s: float) -> str:
        real_s = sum(c.real_time_s for c in counted)
        live_s = sum(c.live_time_s for c in counted)
        channels = np.sum([c.channels for c in counted], axis=0)
        start = self.options.began + timedelta(seconds=end_s - real_s)
        live = f"<LiveTimeDuration>PT{live_s:.5f}S</LiveTimeDuration>"
        squared = np.bincount(_SQUARED_CHANNEL, weights=channels, minlength=256).astype(int)
        gamma = 'radDetectorInformationReference="VD1"'
        dose = 7e-5 * float(channels.sum()) / live_s  # a made-up dose response [µSv/h]
        return (
            f'<RadMeasurement id="{name}"><MeasurementClassCode>{code}</MeasurementClassCode>'
            f"<StartDateTime>{start:%Y-%m-%dT%H:%M:%S}Z</StartDateTime>"
            f"<RealTimeDuration>PT{real_s:.5f}S</RealTimeDuration>"
            f'<Spectrum id="Spectrum-{name}" {gamma} energyCalibrationReference="LinEnCal">{live}'
            f"{_channel_data(channels.tolist())}</Spectrum>"
            f'<Spectrum id="Compr-{name}" {gamma} energyCalibrationReference="CmpEnCal">{live}'
            f"{_channel_data(squared.tolist())}</Spectrum>"
            f'<GrossCounts id="GC-{name}-VD1" {gamma}>{live}'
            f"<CountData>{int(channels.sum())}</CountData></GrossCounts>"
            f'<GrossCounts id="GC-{name}-VD1N" radDetectorInformationReference="VD1N">'
            f"<LiveTimeDuration>PT{real_s:.5f}S</LiveTimeDuration>"
            f"<CountData>{sum(c.neutrons for c in counted)}</CountData></GrossCounts>"
            f'<DoseRate id="DR-{name}" {gamma}>'
            f'<DoseRateValue units="uSv/h">{dose:.7f}</DoseRateValue></DoseRate>'
            f"{self._occupancy(end_s) if code == 'Foreground' else ''}</RadMeasurement>"
        )

    def _occupancy(self, end_s: float) -> str:
        if not self.options.says_occupancy:
            return ""
        is_there = self.scene.beam_broken(end_s - 1.0, end_s)
        speed = self.scene.speed_m_per_s(end_s - 0.5)
        state = (
            f"<RadItemState><StateVector><SpeedValue>{speed:.2f}</SpeedValue></StateVector>"
            "</RadItemState>"
            if speed is not None and is_there
            else ""
        )
        return f"{state}<OccupancyIndicator>{str(is_there).lower()}</OccupancyIndicator>"

    def _framed(self, inside: str) -> bytes:
        lacks_stx, self._is_first = self._is_first and self.options.first_lacks_stx, False
        text = _HEAD.format(battery=self.options.battery_percent) + inside + "</RadInstrumentData>"
        return (b"" if lacks_stx else b"\x02") + text.encode("ascii") + b"\x03"


class N42Server:
    """The instrument on TCP: it only talks, to everyone who is connected."""

    def __init__(self, instrument: N42Instrument) -> None:
        self._instrument = instrument
        self._port = TcpPort(self._greet)
        self._sends: list[Send] = []
        self._task: asyncio.Task[None] | None = None

    async def serve_tcp(self, clock: SceneClock, port: int = 0) -> str:
        """Talk on a port of this machine and return ``tcp://127.0.0.1:N``."""
        number = await self._port.open(port)
        self._task = asyncio.create_task(self._play(clock), name="simulated N42 stream")
        return f"tcp://127.0.0.1:{number}"

    async def close(self) -> None:
        """Stop talking and listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._port.close()

    def _greet(self, send: Send) -> _Listener:
        self._sends.append(send)
        return _Listener(self._sends, send)

    async def _play(self, clock: SceneClock) -> None:
        while True:
            now_s = clock.now_s()
            for _, data in self._instrument.advance(now_s):
                for send in list(self._sends):
                    send(data)
            wait_s = _SHORTEST_WAIT_S * clock.time_scale
            await clock.sleep_until(max(self._instrument.wake_s, now_s + wait_s))


class _Listener:
    """A client; what it writes is ignored."""

    def __init__(self, sends: list[Send], send: Send) -> None:
        self._sends = sends
        self._send = send

    def received(self, data: bytes) -> None:
        del data

    def closed(self) -> None:
        if self._send in self._sends:
            self._sends.remove(self._send)


def _sigma(counts: float, expected: float) -> float:
    return (counts - expected) / math.sqrt(max(expected, 1e-9))


def counted_zeroes(counts: list[int]) -> str:
    """Return counts with each run of zeroes as 0 and its length."""
    words: list[str] = []
    zeroes = 0
    for count in [*counts, -1]:
        if count == 0:
            zeroes += 1
            continue
        if zeroes:
            words += ["0", str(zeroes)]
            zeroes = 0
        if count >= 0:
            words.append(str(count))
    return " ".join(words)


def _channel_data(counts: list[int]) -> str:
    return f'<ChannelData compressionCode="CountedZeroes">{counted_zeroes(counts)}</ChannelData>'


_HEAD = (
    '<?xml version="1.0"?>\n<RadInstrumentData xmlns="http://physics.nist.gov/N42/2011/N42" '
    'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    '<RadInstrumentInformation id="ID_1">'
    "<RadInstrumentManufacturerName>simulated</RadInstrumentManufacturerName>"
    "<RadInstrumentModelName>like an RS-350</RadInstrumentModelName>"
    "<RadInstrumentClassCode>Backpack</RadInstrumentClassCode><RadInstrumentCharacteristics>"
    "<Characteristic><CharacteristicName>Battery Charge</CharacteristicName>"
    "<CharacteristicValue>{battery}</CharacteristicValue>"
    "<CharacteristicValueUnits>%</CharacteristicValueUnits>"
    "<CharacteristicValueDataClassCode>decimal</CharacteristicValueDataClassCode></Characteristic>"
    "</RadInstrumentCharacteristics></RadInstrumentInformation>"
    '<RadDetectorInformation id="VD1"><RadDetectorCategoryCode>Gamma</RadDetectorCategoryCode>'
    "<RadDetectorKindCode>NaI</RadDetectorKindCode></RadDetectorInformation>"
    '<RadDetectorInformation id="VD1N"><RadDetectorCategoryCode>Neutron</RadDetectorCategoryCode>'
    "<RadDetectorKindCode>He3</RadDetectorKindCode></RadDetectorInformation>"
    '<EnergyCalibration id="LinEnCal"><CoefficientValues>0.000 3.000 0.000</CoefficientValues>'
    '</EnergyCalibration><EnergyCalibration id="CmpEnCal">'
    "<CoefficientValues>0.000 0.000 0.046</CoefficientValues></EnergyCalibration>"
)
