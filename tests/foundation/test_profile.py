"""A profile is checked before anything runs, and a fault names the file, the key and the remedy."""

import re

import pytest
import yaml

from iqa_lib import paths
from iqa_lib.errors import ProfileError
from iqa_lib.profile import Profile, load_profile


@pytest.mark.parametrize("path", sorted(paths.PROFILES.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_profile_is_valid_and_named_after_its_file(path):
    assert load_profile(path.stem).profile == path.stem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rate": 1e-3}, "demo, as changed: unknown key 'learning_rate', did you mean 'learning_rate_head'"),
        ({"learning_rate_head": -1.0}, "demo, as changed: learning_rate_head: -1.0 is not allowed.*greater than 0"),
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


@pytest.fixture
def cells():
    """What IPython keeps of the executed cells, for `Profile.from_notebook`."""
    return ["", 'profile: str = "demo"\nn_images: int = 3\nseeds = None', "# Parameters\n"]


@pytest.mark.parametrize(
    ("written", "key", "means"),
    [
        ("null", "data_folder", None),
        ("None", "backbone_tiny", None),
        ('"null"', "backbone_tiny", None),
        ('"false"', "pretrained", False),
        ('"True"', "pretrained", True),
        ('"[0, 1]"', "seeds", (0, 1)),
        ('"[]"', "test_datasets", ()),
        ('"7"', "epochs", 7),
        ('"1e-3"', "learning_rate_head", 1e-3),
        ('"a.safetensors"', "pretrained", "a.safetensors"),
        ('"[odd"', "data_folder", "[odd"),
    ],
)
def test_what_papermill_sets_counts_as_on_the_command_line(cells, written, key, means):
    cells[-1] += f"{key} = {written.replace('null', 'None') if written == 'null' else written}"
    variables = {"profile": "demo", "n_images": 3, "seeds": None, "In": cells}
    exec(cells[-1], variables)
    assert getattr(Profile.from_notebook(variables), key) == means


@pytest.mark.parametrize("key, value, said", [("seeds", 3, "[3]"), ("test_datasets", "spaq", "[spaq]")])
def test_one_value_in_place_of_a_list_is_refused_with_the_list(key, value, said):
    with pytest.raises(ProfileError, match=re.escape(f"{key}: {value!r} is not allowed, write a list: {said}")):
        load_profile("demo", **{key: value})


@pytest.mark.parametrize("name", ["", "a b", "../elsewhere", "-x"])
def test_a_name_that_no_folder_should_have_is_refused_in_words_and_not_as_a_files_fault(tmp_path, name):
    refused = "profile: .* is not allowed, a name has letters, digits"
    with pytest.raises(ProfileError, match=f"^demo, as changed: {refused}"):
        load_profile("demo", profile=name)
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"profile": name, "dataset": "x", "backbone": "swin_test"}))
    with pytest.raises(ProfileError, match=f"^{file}: {refused}"):
        load_profile(str(file), epochs=3)


def test_null_for_a_key_that_needs_a_value_is_refused(cells):
    cells[-1] += "epochs = None"
    with pytest.raises(ProfileError, match="epochs: None is not allowed"):
        Profile.from_notebook({"profile": "demo", "epochs": None, "In": cells})


@pytest.mark.parametrize(
    ("names", "advice"), [("epoch", "did you mean 'epochs'"), ("colour", "this notebook has n_images, profile, seeds")]
)
def test_a_parameter_that_is_unknown_is_refused_whoever_set_it(cells, names, advice):
    variables = {"profile": "demo", "In": [*cells[:-1], f"# Parameters\n{names} = 1"]}
    with pytest.raises(ProfileError, match=f"unknown parameter '{names}'.*{advice}"):
        Profile.from_notebook(variables)
    variables["In"] += ["# Parameters\nn_images = 4\nepochs = 2"]  # corrected in the same kernel
    assert Profile.from_notebook(variables | {"epochs": 2}).epochs == 2


@pytest.mark.parametrize("cell", ["profile", "profile_table = 3", "profile = = 3", "seed = 1 +"])
def test_what_else_is_executed_hides_no_parameter(cells, cell):
    """A notebook that papermill has run, opened by hand; also with a comment above its parameters."""
    for parameters in (cells[1], f"# mine\n{cells[1]}", "seeds = None\n" + cells[1]):
        executed = ["", parameters, "# Parameters\nn_images = 4\nepochs = 2", cell]
        assert Profile.from_notebook({"profile": "demo", "n_images": 4, "epochs": 2, "In": executed}).epochs == 2


def test_a_misspelt_key_in_the_parameters_cell_itself_is_refused():
    with pytest.raises(ProfileError, match="did you mean 'batch_size'"):
        Profile.from_notebook({"profile": "demo", "In": ['profile = "demo"\nbatchsize = 8']})
