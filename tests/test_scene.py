"""The truth of a scene: what a trainer may write, and what the lane must then notice."""

import math
import tomllib
from pathlib import Path

import pytest

from simulators import physics
from simulators.exercise import SceneError
from simulators.scene import HOLD_IN_S, Scene

SCENES = ["demo", "masked-source", "norm-truck", "quiet-day", "spectral-day", "training-1"]


def scene_of(vehicle: str, rest: str = "", *, seed: int = 1) -> Scene:
    return Scene.from_text(
        f'title = "one vehicle"\nseed = {seed}\n{rest}\n[[vehicle]]\nid = "it"\n{vehicle}',
        name="one.toml",
    )


# -- what a trainer may write --


IT = 'x.toml: [[vehicle]] 1 "it"'
GAMMA = "at_s = 30.0\n[vehicle.gamma]\npeak_cps = 3.0\noffset_m"
OTHER = "at_s = 30.0\nmass_kg = 1\n[[vehicle]]\nmass_kg = 1\nid"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "at_s = 30.0\nsheilding = 0.4",
            f'{IT}, key sheilding: unknown key; did you mean "shielding"?',
        ),
        (
            'at_s = "soon"',
            f"{IT}, key at_s: expected a number from 0 to 1e+06 [s], not 'soon'",
        ),
        ("at_s = true", "key at_s: expected a number"),
        ("at_s = nan", "key at_s: nan is out of range"),
        (
            "at_s = 30.0\nmass_kg = -5",
            "mass_kg: -5 is out of range; expected a number from 0 to 200000 [kg]",
        ),
        ("length_m = 9.0", f"{IT}, key at_s: missing"),
        ('at_s = 30.0\nweigh = "beside"', "key weigh: 'beside' is none of 'before', 'after'"),
        (
            "at_s = 30.0\n[vehicle.gamma]\npeak = 3.0",
            f'{IT}: table gamma, key peak: unknown key; did you mean "peak_cps"?',
        ),
        (
            f"{GAMMA} = 1.0\ndetectors = [1, 2]",
            "key detectors: expected 4 figures, one a detector, not [1, 2]",
        ),
        (
            f"{GAMMA} = 12.0",
            "key gamma.offset_m: 12 lies behind the vehicle; expected at most length_m = 9",
        ),
        ("at_s = 30.0\nsplit_gap_s = 2.0", "split_at_m and split_gap_s go together"),
        (
            "at_s = 30.0\nsplit_gap_s = 2.0\nsplit_at_m = 9.5",
            "key split_at_m: 9.5 lies outside the vehicle",
        ),
        (
            "at_s = 30.0\nunplug_portal_at_s = 2.0",
            "unplug_portal_at_s and replug_after_s go together",
        ),
        ("at_s = 30.0\ngamma = 4", "key gamma: expected a table, not 4"),
        (
            "at_s = 30.0\n[vehicle.person]\nwalks_at_s = 1.0\nmetal = 1",
            "key metal: expected true or false, not 1",
        ),
        (f'{OTHER} = "it"\nat_s = 80.0', "key id: another vehicle has this id"),
        (f'{OTHER} = "No 2"\nat_s = 80.0', "key id: expected small letters, digits and hyphens"),
        (
            f'{OTHER} = "b"\nat_s = 34.0\nweigh_delay_s = 60',
            'key at_s: the portal still holds "it"; expected at least 36.0 s',
        ),
        (
            f'{OTHER} = "b"\nat_s = 37.0\nspeed_m_per_s = 9.0',
            'x.toml: [[vehicle]] "b": drives onto the scale before "it" leaves it',
        ),
        (
            'at_s = 10.0\nmass_kg = 1\nweigh = "before"',
            "it must be weighed before the scene begins",
        ),
        ("at_s = = 3", "x.toml: this is not TOML"),
    ],
)
def test_a_scene_that_cannot_be_played_names_file_table_and_key(text, said):
    with pytest.raises(SceneError) as caught:
        Scene.from_text(f'title = "t"\nseed = 1\n[[vehicle]]\nid = "it"\n{text}', name="x.toml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_top_tables_and_single_brackets_are_refused():
    with pytest.raises(SceneError, match=r'key vehicles: unknown key; did you mean "vehicle"'):
        Scene.from_text('title = "t"\nseed = 1\n[[vehicles]]\nid = "a"', name="x.toml")
    with pytest.raises(SceneError, match=r"expected tables written \[\[vehicle\]\]"):
        Scene.from_text('title = "t"\nseed = 1\n[vehicle]\nid = "a"', name="x.toml")
    with pytest.raises(SceneError, match="table background, key gamma_cps: expected 4 figures"):
        Scene.from_text('title = "t"\nseed = 1\n[background]\ngamma_cps = 4', name="x.toml")
    with pytest.raises(SceneError, match="key seed: expected a whole number"):
        Scene.from_text('title = "t"\nseed = 1.5', name="x.toml")


def test_a_missing_file_and_an_unknown_name_are_said_in_one_sentence(tmp_path: Path):
    with pytest.raises(SceneError, match=r"none\.toml: cannot be read as text"):
        Scene.load(tmp_path / "none.toml")
    with pytest.raises(SceneError, match=r"no scene is called .dem.; choose one of demo,"):
        Scene.named("dem")


@pytest.mark.parametrize("name", SCENES)
def test_every_shipped_scene_loads_and_its_traffic_is_unambiguous(name):
    scene = Scene.named(name)
    assert Scene.names() == SCENES
    for ahead, behind in zip(scene.transits, scene.transits[1:], strict=False):
        on, off = behind.vehicle.at_s, ahead.on_scale_s
        assert off is None or off[1] <= on, f"{behind.vehicle.id} arrives during a weighing"


def test_the_demo_shows_one_of_everything():
    scene = Scene.named("demo")
    assert {t.vehicle_id: set(t.expected) for t in scene.truth} == {
        "clean-1": set(),
        "norm-1": {"gamma"},
        "gamma-1": {"gamma"},
        "neutron-1": {"neutron"},
        "heavy-1": {"weight"},
        "metal-1": {"metal"},
        "split-1": set(),
        "unplugged-1": set(),
        "clean-2": set(),
    }
    assert [t.vehicle_id for t in scene.truth if not t.is_complete] == ["unplugged-1"]
    assert 150.0 <= scene.duration_s <= 210.0
    split = next(t for t in scene.truth if t.vehicle_id == "split-1")
    (_, first_end), (second_start, _) = split.occupancies
    assert second_start - first_end == pytest.approx(2.0)


def test_a_masked_source_is_not_promised_while_the_open_one_is():
    truth = {t.vehicle_id: t for t in Scene.named("masked-source").truth}
    assert truth["open"].expected == {"gamma"}
    assert not truth["masked"].expected
    assert not truth["masked"].possible


# -- the truth --


def test_truth_lists_a_vehicle_only_when_it_has_left_everything():
    scene = scene_of("at_s = 30.0\nspeed_m_per_s = 3.0\nlength_m = 9.0\nmass_kg = 9000")
    # 3 s through the beam, 4 s to the scale, 2 + 6 + 2 s on it.
    assert scene.truth[0].finished_s == pytest.approx(47.0)
    assert scene.truth[0].occupancies == ((30.0, 33.0 + HOLD_IN_S),)
    assert scene.finished(46.9) == ()
    assert [t.vehicle_id for t in scene.finished(47.0)] == ["it"]


def test_the_load_ramps_on_stands_six_seconds_and_ramps_off():
    scene = scene_of("at_s = 30.0\nspeed_m_per_s = 3.0\nlength_m = 9.0\nmass_kg = 9000")
    assert scene.load_kg(37.0) == 0.0
    assert scene.load_kg(38.0) == pytest.approx(4500.0)
    assert {scene.load_kg(t) for t in (39.0, 42.0, 45.0)} == {9000.0}
    assert scene.load_kg(46.0) == pytest.approx(4500.0)
    assert scene.load_kg(47.0) == 0.0


def test_a_vehicle_weighed_before_the_portal_leaves_the_scale_first():
    scene = scene_of('at_s = 30.0\nmass_kg = 9000\nweigh = "before"\nweigh_delay_s = 5.0')
    assert scene.transits[0].on_scale_s == (15.0, 25.0)
    assert scene.load_kg(20.0) == 9000.0
    assert scene_of("at_s = 30.0").transits[0].on_scale_s is None


def test_random_selection_is_not_metal():
    text = "at_s = 30.0\n[vehicle.person]\nwalks_at_s = 2.0\nselected_at_random = true"
    scene = scene_of(text)
    (walk,) = scene.walks()
    assert (walk.at_s, walk.direction, walk.is_random, walk.has_metal) == (32.0, "in", True, False)
    assert scene.truth[0].metal is False
    assert not scene.truth[0].expected
    assert scene_of("at_s = 30.0").truth[0].metal is None


def test_an_unplugged_portal_promises_no_radiation_alarm_but_still_the_weight():
    source = "[vehicle.gamma]\npeak_cps = 3000.0\noffset_m = 4.0"
    plug = "unplug_portal_at_s = 1.0\nreplug_after_s = 5.0"
    scene = scene_of(f"at_s = 30.0\nmass_kg = 46500\n{plug}\n{source}")
    assert scene.unplugs == ((31.0, 36.0),)
    truth = scene.truth[0]
    assert truth.expected == {"weight"}
    assert truth.possible == {"gamma"}
    assert not truth.is_complete
    assert scene_of(f"at_s = 30.0\nmass_kg = 40000\n{source}").truth[0].expected == {"gamma"}


def test_a_background_that_changes_near_a_vehicle_makes_its_alarm_only_possible():
    event = '[[event]]\nkind = "gamma_background"\nat_s = 20.0\nfor_s = 100.0\nfactor = 3.0'
    source = "at_s = 30.0\n[vehicle.gamma]\npeak_cps = 6000.0\noffset_m = 4.0"
    truth = scene_of(source, event).truth[0]
    assert (truth.expected, truth.possible) == (frozenset(), {"gamma"})


def test_made_up_traffic_comes_from_the_seed_alone():
    def arrivals(seed):
        text = f'title = "t"\nseed = {seed}\n[traffic]\nvehicles = 12'
        return [t.vehicle for t in Scene.from_text(text).transits]

    assert arrivals(4) == arrivals(4)
    assert arrivals(4) != arrivals(5)
    assert len(arrivals(4)) == 12


def test_scene_files_say_who_they_are():
    for name in SCENES:
        path = Path(physics.__file__).parent / "scenes" / f"{name}.toml"
        text = path.read_text()
        assert text.startswith("# "), f"{name} tells the trainer nothing"
        assert tomllib.loads(text)["title"]


# -- physics --


def test_the_source_profile_is_the_mean_of_the_inverse_square_law():
    d = physics.PILLAR_DISTANCE_M
    assert physics.point_profile(0.0, 0.0) == 1.0
    assert physics.point_profile(d, d) == pytest.approx(0.5)
    steps = [-3.0 + 0.001 * (i + 0.5) for i in range(5000)]  # midpoint rule from -3 to +2 m
    mean = sum(d * d / (d * d + x * x) for x in steps) / len(steps)
    assert physics.point_profile(-3.0, 2.0) == pytest.approx(mean, rel=1e-6)


def test_an_extended_source_is_flat_in_the_middle_and_halves_at_its_ends():
    assert physics.line_profile(0.0, 0.0, 12.0) == pytest.approx(1.0)
    assert physics.line_profile(2.0, 2.0, 12.0) > 0.95
    assert physics.line_profile(6.0, 6.0, 12.0) == pytest.approx(0.5, abs=0.1)
    slices = [physics.line_profile(x / 100, (x + 1) / 100, 12.0) for x in range(300, 900)]
    assert physics.line_profile(3.0, 9.0, 12.0) == pytest.approx(math.fsum(slices) / 600)


def test_shielding_begins_before_the_beam_breaks_as_recorded():
    # Mean of 700 recorded occupancies at about 2.2 m/s, five 0.2 s intervals each side of the beam.
    recorded = (0.954, 0.938, 0.918, 0.887, 0.853, 0.806, 0.753, 0.714, 0.695, 0.689)
    scene = scene_of("at_s = 30.0\nspeed_m_per_s = 2.2\nlength_m = 14.0\nshielding = 0.311")
    for number, ratio in enumerate(recorded):
        start = 29.0 + 0.2 * number
        rates = scene.rates(start, start + 0.2)
        assert sum(rates.gamma_background) / 1637.0 == pytest.approx(ratio, abs=1e-3)
    assert sum(scene.rates(20.0, 20.2).gamma_background) == 1637.0
    assert sum(scene.rates(45.0, 45.2).gamma_background) == 1637.0


def test_shielding_lifts_between_tractor_and_distant_trailer():
    scene = scene_of(
        "at_s = 30.0\nspeed_m_per_s = 2.5\nlength_m = 12.0\nsplit_at_m = 5.0\nsplit_gap_s = 4.0"
    )
    (_, first_end), (second_start, _) = scene.truth[0].occupancies
    assert (first_end, second_start) == (pytest.approx(34.0), pytest.approx(38.0))
    assert not scene.beam_broken(32.01, 37.99)
    assert sum(scene.rates(35.0, 35.2).gamma_background) == pytest.approx(1637.0, rel=0.02)
    assert sum(scene.rates(31.0, 31.2).gamma_background) < 1637.0 * 0.8


def test_a_source_behind_the_split_passes_with_the_trailer():
    scene = scene_of(
        "at_s = 30.0\nspeed_m_per_s = 2.5\nlength_m = 12.0\nsplit_at_m = 5.0\nsplit_gap_s = 4.0\n"
        "[vehicle.neutron]\npeak_cps = 100.0\noffset_m = 7.5"
    )
    # The trailer's front, 5 m back, breaks the beam at 38 s; the source is 2.5 m behind it.
    assert scene.rates(38.99, 39.01).neutron == pytest.approx(102.6, abs=0.1)


@pytest.mark.parametrize(
    ("background", "sums", "together", "pillars"),
    [
        ((267, 303, 289, 327), (314, 314, 368, 378), 5.459, 5.238),
        ((397, 398, 427, 433), (558, 462, 441, 470), 6.784, 7.980),
        ((398, 395, 430, 426), (559, 391, 431, 447), 4.408, 5.575),
        ((385, 392, 417, 404), (440, 396, 540, 427), 5.128, 5.095),
        ((393, 396, 445, 436), (370, 360, 617, 439), 2.839, 5.896),
    ],
)
def test_the_alarm_rule_gives_the_recorded_sigmas(background, sums, together, pillars):
    assert physics.excess_sigma(sums, background, "1000") == pytest.approx(together, abs=1e-3)
    assert physics.excess_sigma(sums, background, "0010") == pytest.approx(pillars, abs=1e-3)
    both = physics.excess_sigma(sums, background, "1010")
    assert both == pytest.approx(max(together, pillars), abs=1e-3)


def test_the_poisson_tail_agrees_with_its_closed_forms():
    assert physics.poisson_tail(0, 2.6) == 1.0
    assert physics.poisson_tail(1, 2.6) == pytest.approx(1 - math.exp(-2.6))
    assert physics.poisson_tail(2, 0.01) == pytest.approx(1 - 1.01 * math.exp(-0.01), rel=1e-9)
    assert physics.poisson_tail(30, 2.6) < 1e-18
    assert physics.poisson_tail(1, 2000.0) == 1.0
