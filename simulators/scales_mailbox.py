"""A Rice Lake 880 on Modbus: four registers take a command, four others hold its answer.

Addresses from 0, as on the wire; 32-bit values with the high word first::

    holding  WRITE + 0 command, 1 parameter (number of the scale), 2-3 value
             READ  + 0 the command, echoed, 1 status, 2-3 value
    commands integer: 0 status and gross, 32 gross, 33 net, 34 tare, 37 displayed
             float: 256 status and gross, 288 gross, 289 net, 290 tare
             10 zero, 12 enter the value as tare, 13 acquire tare, 14 clear tare, 253 no operation
             status bit 14: the value is a float

Source: Rice Lake 880 network interface manual p. 13-21. Unconfirmed, and chosen here: where the
mailbox stands, every status bit but 14, that a command of another number leaves the answer as it
was, and that the last answer is kept up to date.
"""

from __future__ import annotations

import struct
from collections import deque
from decimal import Decimal

from simulators.modbus_server import ModbusUnit
from simulators.scales_modbus import ModbusTerminal
from simulators.weighbridge import Observation, Unit, Weighbridge

WRITE, READ = 1024, 0
MOVING, ERROR, NET, NEGATIVE, FLOAT = 4, 5, 7, 15, 14
_INTEGERS = {0: "gross", 32: "gross", 33: "net", 34: "tare", 37: "displayed"}
_FLOATS = {256: "gross", 288: "gross", 289: "net", 290: "tare"}
_ZERO, _ENTER_TARE, _ACQUIRE_TARE, _CLEAR_TARE, _NOTHING = 10, 12, 13, 14, 253


class MailboxScale(ModbusTerminal):
    """A terminal that is asked for each figure by Modbus.

    Parameters
    ----------
    decimals : digits behind the point of its figures
    answer_s : so long after a command its answer stands there, in scene time [s]
    scale : the number it goes by; a command for another one is passed over
    is_swapped : the two bytes of every register in the other order
    is_frozen : its interface repeats the last answer; may be set at any time
    """

    def __init__(  # noqa: PLR0913 - each a setting of the indicator, by its name
        self,
        weighbridge: Weighbridge,
        *,
        unit: Unit = "kg",
        increment: Decimal | None = None,
        decimals: int = 0,
        answer_s: float = 0.0,
        scale: int = 1,
        is_swapped: bool = False,
        unit_id: int = 1,
    ) -> None:
        words = [*range(WRITE, WRITE + 4), *range(READ, READ + 4)]
        modbus = ModbusUnit(
            unit_id=unit_id,
            holding=dict.fromkeys(words, 0),
            before_request=self._refresh,
            after_write=self._take,
        )
        super().__init__(weighbridge, modbus, unit=unit, increment=increment)
        self.decimals = decimals
        self.answer_s = answer_s
        self.scale = scale
        self.is_swapped = is_swapped
        self.is_frozen = False
        self.commands: deque[tuple[int, ...]] = deque(maxlen=10_000)
        """The four words of each command that came."""
        self._under_way: deque[tuple[float, tuple[int, ...]]] = deque()
        self._answered: tuple[int, ...] | None = None

    def _take(self) -> None:
        """A client has written: the command is carried out ``answer_s`` later."""
        assert self._clock is not None
        words = tuple(self._turned(self.modbus.holding[WRITE + i]) for i in range(4))
        self.commands.append(words)
        self._under_way.append((self._clock.now_s() + self.answer_s, words))

    def _refresh(self) -> None:
        if self._clock is None or self.is_frozen:
            return
        observation = self.observe()
        while self._under_way and self._under_way[0][0] <= observation.scene_s:
            _, words = self._under_way.popleft()
            if words[1] == self.scale:
                self._carry_out(words, observation)
        if self._answered is not None:
            self._answer(self._answered, observation)

    def _carry_out(self, words: tuple[int, ...], observation: Observation) -> None:
        command, value = words[0], words[2] << 16 | words[3]
        if command == _ZERO:
            self.set_zero(observation)
        elif command == _ENTER_TARE:
            self.tare = Decimal(value).scaleb(-self.decimals)
        elif command == _ACQUIRE_TARE:
            self.set_tare(observation)
        elif command == _CLEAR_TARE:
            self.tare = Decimal(0)
        elif command not in (*_INTEGERS, *_FLOATS, _NOTHING):
            return
        self._answered = words

    def _answer(self, words: tuple[int, ...], observation: Observation) -> None:
        command = words[0]
        reading = self.show(observation)
        figures = {
            "gross": reading.value + reading.tare,
            "net": reading.value,
            "displayed": reading.value,
            "tare": reading.tare,
        }
        is_float = command in _FLOATS
        figure = figures[(_FLOATS if is_float else _INTEGERS).get(command, "gross")]
        status = (
            (reading.range != "ok") << ERROR
            | reading.in_motion << MOVING
            | reading.is_net << NET
            | (figure < 0) << NEGATIVE
            | is_float << FLOAT
        )
        if is_float:
            value = struct.pack(">f", float(figure))
        else:
            value = struct.pack(">i", int(figure.scaleb(self.decimals)))
        answer = (command, status, *struct.unpack(">HH", value))
        self.modbus.set_words(self.modbus.holding, READ, map(self._turned, answer))

    def _turned(self, word: int) -> int:
        return int.from_bytes(word.to_bytes(2, "little" if self.is_swapped else "big"), "big")
