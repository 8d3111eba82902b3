"""The listing of drivers, and that docs/drivers.md is it."""

from __future__ import annotations

import json
from pathlib import Path

from agent.cli import main
from agent.config import describe_drivers
from agent.tools.devices import (
    RENEW,
    captures,
    devices_json,
    devices_markdown,
    devices_text,
    origin,
)
from drivers.base import names

PAGE = Path(__file__).resolve().parent.parent / "docs" / "drivers.md"


def test_the_page_of_drivers_is_what_the_code_says():
    assert PAGE.read_text("utf-8") == devices_markdown(), f"renew it: {RENEW}"


def test_the_listing_names_every_driver_with_type_bounds_default_and_source():
    for listing in describe_drivers():
        for option in (*listing.own, *listing.of_kind, *listing.common):
            assert option.expected
    text = devices_text()
    for name in names():
        assert name in text
        assert origin(name).reads in text
    assert "nsigma: a number from 1 to 20; default 5.0" in text
    assert "preset: one of" in text
    assert "must be given" in text
    assert "Rice Lake 680 manual p. 64" in text


def test_every_driver_says_what_it_reads_and_from_which_document():
    for name in names():
        known = origin(name)
        assert known.reads, f"drivers.{name}: the docstring opens with what it reads"
        assert known.source, f"drivers.{name}: the docstring has no line 'Source: …'"
        assert "Unconfirmed" not in known.source


def test_the_listing_for_machines_names_the_options_of_each_owner():
    drivers = {driver["driver"]: driver for driver in json.loads(devices_json())}
    assert tuple(drivers) == names()
    toledo = drivers["scale.toledo"]
    assert toledo["line"] == "9600 8N1"
    assert {option["of"] for option in toledo["options"]} == {"device", "kind", "driver"}
    assert toledo["source"].startswith("Rice Lake 680")
    assert "expanded" in toledo["unconfirmed"]


def test_captures_are_counted_by_provenance(tmp_path):
    for case, kind, integrity in (("a", "recorded", "true"), ("b", "constructed", "false")):
        folder = tmp_path / "scale.toledo" / case
        folder.mkdir(parents=True)
        (folder / "provenance.toml").write_text(f'kind = "{kind}"\nintegrity = {integrity}\n')
    found = captures("scale.toledo", tmp_path)
    assert found.by_provenance == {"recorded": 1, "constructed": 1}
    assert found.with_integrity == 1
    page = devices_markdown(tmp_path)
    assert "| 1 constructed, 1 recorded | where it is sent |" in page


def test_without_the_repository_the_page_leaves_its_captures_open(tmp_path):
    assert captures("scale.toledo", tmp_path / "nothing") is None
    assert "| serial 9600 8N1 or TCP |  |  |" in devices_markdown(tmp_path / "nothing")


def test_the_command_prints_each_form(capsys):
    assert main(["devices"]) == 0
    assert "scale.toledo (serial 9600 8N1 or TCP):" in capsys.readouterr().out
    assert main(["devices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(["devices", "--markdown"]) == 0
    assert capsys.readouterr().out == devices_markdown()
