"""What every dual encoder promises, held against the models of the package."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cmcl_ray.components import ComponentSpec, build_component
from cmcl_ray.data.images import Captions, DataFacts, Features, Pixels
from cmcl_ray.errors import ConfigError, DataError
from cmcl_ray.models.base import ModelVersion, branch_of, build_model, encode_rows, weights_id
from cmcl_ray.models.two_branch import TwoBranch
from tests.unit.models.toys import FACTS, SPECS, inputs_of, model_of, spec_of, toy_pairs

CPU = torch.device("cpu")
every_model = pytest.mark.parametrize("name", list(SPECS))


@every_model
def test_embeddings_are_unit_vectors_of_one_width(name: str) -> None:
    model = model_of(name)
    image, text = inputs_of(name, 5)
    for side, values in (("image", image), ("text", text)):
        vectors = model.encode(side, values)
        assert vectors.shape == (5, 12)
        assert vectors.dtype == torch.float32
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5), rtol=0, atol=1e-6)
    assert torch.equal(model.encode("image", image), model.encode_image(image))
    assert torch.equal(model.encode("text", text), model.encode_text(text))


@every_model
def test_forward_is_both_projections_and_the_scale(name: str) -> None:
    model = model_of(name, temperature=0.05)
    image, text = inputs_of(name, 4)
    outputs = model(image, text)
    assert torch.equal(outputs.image_raw, model.project_image(image))
    assert torch.equal(outputs.text_raw, model.project_text(text))
    torch.testing.assert_close(outputs.logit_scale, torch.tensor(20.0))
    torch.testing.assert_close(torch.nn.functional.normalize(outputs.image_raw, dim=1), model.encode_image(image))
    torch.testing.assert_close(torch.nn.functional.normalize(outputs.text_raw, dim=1), model.encode_text(text))


@every_model
@pytest.mark.parametrize("training", [False, True])
def test_a_row_does_not_depend_on_its_neighbours(name: str, training: bool) -> None:
    model = model_of(name, **({} if name == "tiny" else {"dropout": 0.0})).train(training)
    for side, values in zip(("image", "text"), inputs_of(name, 9), strict=True):
        together = model.encode(side, values)
        alone = torch.cat([model.encode(side, values[row : row + 1]) for row in range(9)])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-6)
        turned = model.encode(side, values.flip(0)).flip(0)
        torch.testing.assert_close(together, turned, rtol=0, atol=1e-6)


def test_the_number_of_padded_words_does_not_matter() -> None:
    model = model_of("tiny")
    _, text = inputs_of("tiny", 3)
    text[:, 4:] = 0
    torch.testing.assert_close(model.encode_text(text), model.encode_text(text[:, :4]), rtol=0, atol=1e-6)


def test_an_empty_caption_has_a_vector_of_its_own() -> None:
    model = model_of("tiny")
    _, text = inputs_of("tiny", 3)
    text[1] = 0
    vectors = model.encode_text(text)
    assert torch.isfinite(vectors).all()
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
    assert not torch.allclose(vectors[1], vectors[0], atol=1e-3)
    vectors.square().sum(0)[0].backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.text_branch.parameters())


@pytest.mark.parametrize("name", ["two_branch", "shared_1", "shared_2"])
def test_an_all_zero_feature_vector_stays_finite(name: str) -> None:
    model = model_of(name)
    image, text = inputs_of(name, 3)
    image[1], text[1] = 0, 0
    for vectors, side in ((model.encode_image(image), "image"), (model.encode_text(text), "text")):
        assert torch.isfinite(vectors).all()
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3), rtol=0, atol=1e-6)
        vectors.sum(0)[0].backward()
        of_side = [weight for key, weight in model.named_parameters() if branch_of(key) in (side, "shared")]
        assert all(torch.isfinite(weight.grad).all() for weight in of_side)


@every_model
def test_parameters_are_named_after_their_branch(name: str) -> None:
    model = model_of(name)
    branches = {key: branch_of(key) for key, _ in model.named_parameters()}
    image, text = inputs_of(name, 3)
    model.encode_image(image).sum(0)[0].backward()
    reached = {key for key, weight in model.named_parameters() if weight.grad is not None}
    assert reached == {key for key, branch in branches.items() if branch in ("image", "shared")}
    model.zero_grad()
    model.encode_text(text).sum(0)[0].backward()
    reached = {key for key, weight in model.named_parameters() if weight.grad is not None}
    assert reached == {key for key, branch in branches.items() if branch in ("text", "shared")}
    assert ("shared" in branches.values()) == name.startswith("shared")


def test_branches_go_by_the_first_word_of_a_name() -> None:
    names = {"image_branch.0.weight": "image", "text_branch.words.weight": "text", "top.0.bias": "shared", "log_scale": "shared"}
    assert {name: branch_of(name) for name in names} == names
    assert branch_of("image_branching.weight") == "shared"


@every_model
def test_first_weights_follow_from_the_seed_alone(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = build_model(spec_of(name), FACTS, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    same, other = build_model(spec_of(name), FACTS, seed=4), build_model(spec_of(name), FACTS, seed=5)
    assert weights_id(one.state_dict()) == weights_id(same.state_dict())
    assert weights_id(one.state_dict()) != weights_id(other.state_dict())


@every_model
def test_a_state_dict_brings_back_the_model(name: str) -> None:
    one, other = model_of(name, seed=1), model_of(name, seed=2)
    other.load_state_dict(one.state_dict())
    for side, values in zip(("image", "text"), inputs_of(name, 4), strict=True):
        assert torch.equal(one.encode(side, values), other.encode(side, values))
    assert weights_id(one.state_dict()) == weights_id(other.state_dict())


@every_model
def test_the_temperature_is_fixed_unless_asked_for(name: str) -> None:
    fixed, learnt = model_of(name, temperature=0.2), model_of(name, temperature=0.2, learn_temperature=True)
    assert "log_scale" not in dict(fixed.named_parameters())
    assert "log_scale" in fixed.state_dict()
    assert "log_scale" in dict(learnt.named_parameters())
    for model in (fixed, learnt):
        torch.testing.assert_close(model.logit_scale(), torch.tensor(5.0))
    with torch.no_grad():
        learnt.log_scale.fill_(9.0)
    assert learnt.logit_scale() == 100


@pytest.mark.parametrize("name", ["tiny", "two_branch"])
@pytest.mark.parametrize("value", [0.0, -1.0, 0.009, float("nan")])
def test_a_temperature_that_cannot_work_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=r"model: temperature is .*; expected at least 0.01, such as 0.07"):
        model_of(name, temperature=value)


def test_models_say_how_their_rows_are_read() -> None:
    tiny = model_of("tiny", image_size=40).inputs()
    assert tiny.image == Pixels(40)
    assert isinstance(tiny.text, Captions)
    assert tiny.text.tokenizer.describe()["buckets"] == 64
    features = model_of("two_branch").inputs()
    assert (features.image, features.text) == (Features("image", 6), Features("text", 5))


@pytest.mark.parametrize("size", [32, 45, 72])
def test_tiny_takes_squares_of_its_sizes(size: int) -> None:
    model = model_of("tiny", image_size=size)
    assert model.encode_image(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, 12)


def test_tiny_sees_where_a_thing_stands() -> None:
    model = model_of("tiny")
    left = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    left[:, :, 12:20, 2:10] = 0
    assert not torch.allclose(model.encode_image(left), model.encode_image(left.flip(3)), atol=1e-3)


def test_tiny_hears_the_order_of_words() -> None:
    model = model_of("tiny")
    tokens = torch.from_numpy(model.inputs().text.tokenizer(["red cat green dog", "green cat red dog"]))
    one, other = model.encode_text(tokens)
    assert not torch.allclose(one, other, atol=1e-3)


def test_sharing_top_layers_shares_their_weights() -> None:
    counts = [sum(1 for key, _ in model_of(name).named_parameters() if branch_of(key) == "shared") for name in SPECS]
    assert counts == [0, 0, 2, 4]


@pytest.mark.parametrize(("facts", "column"), [(DataFacts(None, 5), "image_features"), (DataFacts(6, None), "text_features")])
def test_two_branch_needs_features(facts: DataFacts, column: str) -> None:
    with pytest.raises(DataError, match=f"works on features, but the data has no column {column}; .* or take model tiny"):
        TwoBranch(facts)


@pytest.mark.parametrize(
    ("name", "params", "text"),
    [
        ("two_branch", {"shared_layers": 3}, "model.shared_layers is 3; expected 0, 1 or 2"),
        ("two_branch", {"dropout": 1.0}, "model.dropout is 1.0; expected a share of at least 0 and below 1"),
        ("tiny", {"width": 12}, "model.width is 12 and model.text_width 16; expected multiples of 8 and of 4"),
        ("tiny", {"text_width": 18}, "model.width is 8 and model.text_width 18; expected multiples of 8 and of 4"),
        ("tiny", {"buckets": 1}, "buckets is 1; expected at least 2"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, params: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        build_model(spec_of(name, **params), FACTS, seed=0)


def test_an_unknown_model_is_refused_before_any_weight_is_made() -> None:
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        build_component(ComponentSpec("model", "tinny", {}, "model"), facts=FACTS)


# -- versions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.uint8])
def test_an_id_changes_with_any_bit(dtype: torch.dtype) -> None:
    weights = {"a": torch.ones(3, 2).to(dtype), "b": torch.tensor(0).to(dtype)}
    first = weights_id(weights)
    assert len(first) == 16
    assert int(first, 16) >= 0
    seen = {first}
    for name, tensor in weights.items():
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        for position in range(data.size):
            for bit in range(1 if dtype is torch.bool else 8):
                data[position] ^= 1 << bit
                seen.add(weights_id(weights))
                data[position] ^= 1 << bit
        assert weights_id(weights) == first, name
    sizes = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    assert len(seen) == 1 + sizes * (1 if dtype is torch.bool else 8)


def test_an_id_depends_on_names_shapes_and_types_and_not_on_order_or_layout() -> None:
    values = torch.arange(6, dtype=torch.float32)
    first = weights_id({"a": values.view(2, 3), "b": values})
    assert weights_id({"b": values, "a": values.view(2, 3)}) == first
    assert weights_id({"a": values.view(2, 3).T.contiguous().T, "b": torch.nn.Parameter(values)}) == first
    assert weights_id({"a": values.view(3, 2), "b": values}) != first
    assert weights_id({"a": values.view(2, 3), "c": values}) != first
    assert weights_id({"a": values.view(2, 3), "b": values.view(torch.int32)}) != first
    assert weights_id({"a": values.view(2, 3)}) != first
    assert weights_id({"a": torch.empty(0)}) != weights_id({"a": torch.empty(0, 2)})


def test_a_version_is_a_value() -> None:
    version = ModelVersion("0123456789abcdef", None, 0, "data", "folder")
    assert version == replace(version)
    assert version != replace(version, parent="x")


# -- embedding rows ---------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("batch_rows", [1, 4, 100])
def test_rows_are_embedded_as_the_model_would_one_by_one(name: str, batch_rows: int) -> None:
    model, pairs = model_of(name), toy_pairs()
    for side, rows in (("image", np.array([8, 0, 0, 5, 3])), ("text", np.array([17, 2, 2, 9, 4, 11]))):
        found = encode_rows(model, pairs, side, rows, batch_rows, CPU)
        assert found.shape == (len(rows), 12)
        assert found.dtype == np.float32
        reader = model.inputs().reader(side)
        for vector, row in zip(found, rows, strict=True):
            with torch.no_grad():
                alone = model.encode(side, torch.from_numpy(reader.read(pairs, np.array([row]))))
            np.testing.assert_allclose(vector, alone[0].numpy(), rtol=0, atol=1e-6)


def test_embedding_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows to embed; expected at least one; leave empty splits out"):
        encode_rows(model_of("two_branch"), toy_pairs(), "image", np.empty(0, dtype=np.int64), 4, CPU)
