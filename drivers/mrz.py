"""The machine readable zone of a travel document: its form, its number, its check digits.

::

    TD3  2 x 44  passports   V....: visa MRV-A        A  document code, 2   I  issuing state, 3
    TD2  2 x 36  cards       V....: visa MRV-B        D  document number, 9   d  its check digit
    TD1  3 x 30  cards                                B  birth, 6 and check digit
                                                      E  expiry, 6 and check digit
    TD3   AAIIInnn...            DDDDDDDDDdNNNBBBBBBbSEEEEEEeOOOOOOOOOOOOOOoc
    TD2   AAIIInnn...            DDDDDDDDDdNNNBBBBBBbSEEEEEEeOOOOOOOc
    TD1   AAIIIDDDDDDDDDdOOO...  BBBBBBbSEEEEEEeNNNOOOOOOOOOOOc  nnn...
    O  optional data (TD3: personal number, o its check digit or < where it is empty)
    c  composite check digit    visas have neither o nor c

A check digit is the sum of all characters, weighted 7, 3, 1 and again, modulo 10; 0-9 count as they
are, A-Z as 10-35, < as 0. A TD1 or TD2 number of more than nine characters has < for its check
digit and goes on in the optional data, its check digit behind it.

Source: ICAO Doc 9303 (eighth edition), part 3, 4.9 (check digits), part 4, 4.2 (TD3), part 5, 4.2
(TD1), part 6, 4.2 (TD2), part 7 (visas). Unconfirmed against the text itself; the specimens of each
part are the tests.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FORMS = {44: 2, 36: 2, 30: 3}
"""Lines of a zone by their length."""
_LINE = re.compile("[A-Z0-9<]+", re.ASCII)
_WEIGHTS = (7, 3, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """What of a machine readable zone leaves this module; names and dates do not."""

    issuer: str
    number: str
    is_right: bool
    """Whether every check digit stands and is right."""


def is_line(text: str) -> bool:
    """Return whether this can be one line of a zone."""
    return len(text) in FORMS and _LINE.fullmatch(text) is not None


def split(text: str) -> tuple[str, ...]:
    """Return the lines of a zone that was sent in one piece; others as they are."""
    for length, lines in FORMS.items():
        if len(text) == length * lines:
            return tuple(text[at : at + length] for at in range(0, len(text), length))
    return (text,)


def check_digit(text: str) -> str:
    """Return the check digit of these characters."""
    total = sum(_value(c) * _WEIGHTS[i % 3] for i, c in enumerate(text))
    return str(total % 10)


def _value(character: str) -> int:
    if character == "<":
        return 0
    return int(character, 36)


def read(lines: tuple[str, ...]) -> Zone:
    """Return what a whole zone says; its lines have the number and length of one form.

    A wrong check digit leaves everything as it was read.
    """
    if len(lines) == 3:
        return _td1(lines)
    first, second = lines
    issuer, is_visa = first[2:5].rstrip("<"), first[0] == "V"
    optional = second[28:42] if len(second) == 44 else second[28:35]
    # A long number is no part of TD3 or of a visa.
    may_be_long = len(second) == 36 and not is_visa
    number, is_right = _number(second[:9], second[9], optional if may_be_long else "")
    is_right &= check_digit(second[13:19]) == second[19]
    is_right &= check_digit(second[21:27]) == second[27]
    if not is_visa:
        if len(second) == 44:
            is_empty = not optional.strip("<") and second[42] == "<"
            is_right &= is_empty or check_digit(optional) == second[42]
        whole = second[:10] + second[13:20] + second[21:-1]
        is_right &= check_digit(whole) == second[-1]
    return Zone(issuer=issuer, number=number, is_right=is_right)


def _td1(lines: tuple[str, ...]) -> Zone:
    first, second, _ = lines
    number, is_right = _number(first[5:14], first[14], first[15:30])
    is_right &= check_digit(second[:6]) == second[6]
    is_right &= check_digit(second[8:14]) == second[14]
    whole = first[5:30] + second[:7] + second[8:15] + second[18:29]
    is_right &= check_digit(whole) == second[29]
    return Zone(issuer=first[2:5].rstrip("<"), number=number, is_right=is_right)


def _number(field: str, digit: str, optional: str) -> tuple[str, bool]:
    """Return the document number and whether its check digit is right."""
    if digit != "<" or not optional:
        return field.rstrip("<"), check_digit(field) == digit
    rest = optional.split("<", 1)[0]
    if not rest:
        return field.rstrip("<"), False
    number = field + rest[:-1]
    return number, check_digit(number) == rest[-1]
