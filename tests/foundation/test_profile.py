"""A profile is checked before anything runs, and a fault names the file, the key and the remedy."""

import pytest

from iqa_lib import paths
from iqa_lib.errors import ProfileError
from iqa_lib.profile import Profile, load_profile


@pytest.mark.parametrize("path", sorted(paths.PROFILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_profile_is_valid_and_named_after_its_file(path):
    assert load_profile(path.stem).profile == path.stem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rate": 1e-3}, "demo.yaml: unknown key 'learning_rate', did you mean 'learning_rate_head'"),
        ({"learning_rate_head": -1.0}, "demo.yaml: learning_rate_head: -1.0 is not allowed.*greater than 0"),
        ({"epochs": "many"}, "epochs: 'many' is not allowed"),
        ({"loss": "l3"}, "loss: 'l3' is not allowed.*l1.*l2"),
    ],
)
def test_a_wrong_key_or_value_is_named(overrides, message):
    with pytest.raises(ProfileError, match=message) as error:
        load_profile("demo", **overrides)
    assert "\n" not in str(error.value)


def test_an_absent_or_broken_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"No profile 'dmeo'.*Known: .*demo"):
        load_profile("dmeo")
    broken = tmp_path / "broken.yaml"
    broken.write_text("profile: [")
    with pytest.raises(ProfileError, match=r"broken.yaml is not readable YAML"):
        load_profile(str(broken))
    broken.write_text("just text")
    with pytest.raises(ProfileError, match="expected lines 'key: value'"):
        load_profile(str(broken))


def test_a_notebook_takes_its_parameters_and_leaves_the_rest_to_the_profile():
    settings = Profile.from_notebook({"profile": "demo", "seed": 3, "epochs": None, "other": object()})
    assert settings == load_profile("demo", seed=3)
