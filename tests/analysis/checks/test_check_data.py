"""`qat.check_data`: each thing that may be wrong is named by its check, in both frameworks, on any kind of input."""

import numpy as np
import pytest

import qat
from support.nets import net
from support.pictures import flipped, pictures

FRAMEWORKS = pytest.mark.parametrize("framework", ["torch", "keras"])


def as_model_has(x, framework):
    return x.transpose(0, 3, 1, 2) if framework == "torch" else x


def check(samples, **options):
    return qat.check_data(samples, progress=False, **options)


def wrong(found):
    return {check.name: check.status for check in found.not_fine()}


@FRAMEWORKS
def test_samples_like_the_reference_pass(framework):
    (x, y), (r, s) = pictures(200), pictures(400, 1)
    found = check([(as_model_has(x, framework), y)], reference=[(as_model_has(r, framework), s)], model=net(framework))
    assert found.passed and wrong(found) == {}
    assert {check.status for check in found.checks} == {"passed"}
    assert (found.samples, found.reference, found.exit_code(strict=True)) == (200, 400, 0)
    assert "11 passed" in str(found)


CHANGES = {
    "few": (lambda x, y: (x[:10], y[:10]), {"samples": "failed"}, "calibration saw 10 samples"),
    "one class": (lambda x, y: (x[y == 3], y[y == 3]), {"classes": "failed"}, "every calibration sample is of class 3"),
    "a class is missing": (lambda x, y: (x[y != 7], y[y != 7]), {"classes": "warned"}, "class 7 has no sample among 1,080"),
    "repeated": (lambda x, y: (x[np.arange(len(x)) % 900], y), {"duplicates": "warned"}, "300 of 1,200 samples repeat"),
    "noise": (
        lambda x, y: (np.random.default_rng(0).random(x.shape, np.float32), y), {"noise": "failed"}, "they look like noise",
    ),
    "0..255": (lambda x, y: (255 * x, y), {"preprocessing": "failed"}, "0..255, the reference's 0..1"),
    "twice": (lambda x, y: (x / 255, y), {"preprocessing": "failed"}, "at most 1/255"),
    "normalized": (lambda x, y: ((x - 0.5) / 0.2, y), {"preprocessing": "failed"}, "deviation"),
    "flips": (lambda x, y: (flipped(x), y), {"augmentation": "warned"}, "distributed otherwise"),
    "constant": (
        lambda x, y: (0 * x, y), {"constants": "warned", "duplicates": "warned"}, "every calibration value of 'input' is 0",
    ),
    "bytes": (lambda x, y: ((255 * x).astype(np.uint8), y), {"dtype": "warned", "preprocessing": "failed"}, "uint8, where"),
}  # fmt: skip


@FRAMEWORKS
@pytest.mark.parametrize("name", CHANGES)
def test_what_is_wrong_is_named_with_the_next_step(framework, name):
    change, statuses, said = CHANGES[name]
    x, y = change(*pictures(1200))
    r, s = pictures(400, 1)
    found = check([(as_model_has(x, framework), y)], reference=[(as_model_has(r, framework), s)], layout=None)
    assert wrong(found) == statuses
    assert any(said in check.figure for check in found.not_fine())
    assert all(check.next_step in str(found) and check.next_step for check in found.not_fine())
    assert found.exit_code(strict=True) == 2
    assert found.exit_code() == (2 if "failed" in statuses.values() else 0)


def test_nan_is_counted_and_its_first_sample_named():
    x, _ = pictures(200)
    x[17, 2, 2], x[40, 0, 0] = np.nan, np.inf
    found = check([x[:100], x[100:]])
    assert wrong(found) == {"values": "failed"}
    assert found["values"].figure == "2 values are NaN or infinite, the first in sample 17"


def test_bgr_for_rgb():
    (x, y), (r, s) = pictures(300, channels=3), pictures(600, 1, channels=3)
    found = check([(x[..., ::-1], y)], reference=[(r, s)])
    assert wrong(found) == {"preprocessing": "failed"}
    assert "look like the reference's BGR, not RGB" in found["preprocessing"].figure
    assert not wrong(check([(x, y)], reference=[(r, s)]))


def test_another_layout():
    (x, _), (r, _) = pictures(200), pictures(200, 1)
    found = check(as_model_has(x, "torch"), reference=r)
    assert "(1, 8, 8), the reference (8, 8, 1)" in found["preprocessing"].figure
    assert wrong(found) == {"preprocessing": "failed"}


def test_classes_in_other_shares_are_no_augmentation():
    (x, y), (r, s) = pictures(4000), pictures(4000, 1)
    kept = (np.random.default_rng(0).random(4000) < np.linspace(0.1, 0.5, 10)[y]) & (np.arange(4000) < 2500)
    assert not wrong(check([(x[kept], y[kept])], reference=[(r, s)]))
    unlabelled = check(x[kept], reference=r)
    assert unlabelled["augmentation"].status == "warned"  # without labels the mixture differs
    assert unlabelled["classes"].figure == "there are no class numbers"


def test_the_samples_of_one_class_are_compared_with_their_own():
    (x, y), (r, s) = pictures(600), pictures(900, 1)
    found = check([(x[y == 3], y[y == 3])], reference=[(r, s)])
    assert wrong(found) == {"samples": "failed", "classes": "failed"} and found["augmentation"].status == "passed"
    found = check([(x[y == 3], y[y == 3])], reference=[(r[:300], s[:300])])
    assert found["augmentation"].figure == "30 samples of the same classes are too few to compare"


def test_a_rare_class_that_chance_leaves_out_is_no_warning():
    (x, y), (r, s) = pictures(200), pictures(1000, 1)
    s[:1] = 10  # one in a thousand
    assert check([(x, y)], reference=[(r, s)])["classes"].status == "passed"


@FRAMEWORKS
def test_the_models_outputs_are_compared(framework):
    """Of five dimensions the descriptors are moments alone: only the model sees that the values run backwards."""
    random = np.random.default_rng(0)
    x = (np.linspace(0, 1, 8) + random.normal(scale=0.1, size=(700, 1, 2, 2, 8))).astype(np.float32)
    model = flat_net(framework)
    assert not wrong(check(x[:200], reference=x[200:], model=model))
    backwards = np.ascontiguousarray(x[:200, ..., ::-1])
    assert not wrong(check(backwards, reference=x[200:]))
    found = check(backwards, reference=x[200:], model=model)
    assert wrong(found) == {"augmentation": "warned"}
    assert found["augmentation"].figure.startswith("the model's outputs are distributed otherwise")


@FRAMEWORKS
def test_a_model_that_does_not_take_the_samples(framework):
    x, _ = pictures(120, size=6, channels=2)
    found = check(as_model_has(x, framework), model=net(framework))
    assert wrong(found) == {"model": "failed"}
    assert found["model"].figure.startswith("the model does not take the samples: ")


def flat_net(framework):
    if framework == "torch":
        from torch import nn

        return nn.Sequential(nn.Flatten(), nn.Linear(32, 6))
    import keras

    return keras.Sequential([keras.Input((1, 2, 2, 8)), keras.layers.Flatten(), keras.layers.Dense(6)])


def table(count, seed=0):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(count, 2)) @ np.arange(1, 11).reshape(2, 5) / 5
    return (mixed + random.normal(scale=0.3, size=(count, 5))).astype(np.float32)


def test_tables():
    x, r = table(300), table(900, 1)
    assert not wrong(check(x, reference=r))
    noise = np.random.default_rng(0).normal(r.mean(0), r.std(0), x.shape).astype(np.float32)
    found = check(noise, reference=r)
    assert wrong(found) == {"noise": "failed"} and "they look like noise" in found["noise"].figure
    scaled = x * np.float32([1, 1, 12, 1, 1])
    found = check(scaled, reference=r)
    assert wrong(found) == {"preprocessing": "failed"} and found["preprocessing"].figure.startswith("channel 2: mean")
    assert check(x)["noise"].figure == "no image, signal, or table with a reference"


def test_a_column_that_varies_in_the_reference_alone():
    x, r = table(300), table(900, 1)
    x[:, 1] = 0
    assert check(x, reference=r)["constants"].figure == "channel 1 of 'input' holds 0 in every calibration sample"
    r[:, 1] = 0
    assert check(x, reference=r)["constants"].status == "passed"


def test_signals_of_any_length_tokens_and_texts():
    random = np.random.default_rng(0)
    waves = [np.sin(np.arange(n)[None, :, None] / 3 + 6 * random.random((40, 1, 1))).astype(np.float32) for n in (32, 48, 64)]
    assert not wrong(check(waves, reference=waves[::-1]))
    ids = random.integers(0, 900, (150, 16))
    found = (
        check({"tokens": ids, "mask": np.ones((150, 16), np.int64)} | {}, reference=None) if False else check([{"tokens": ids}])
    )
    assert not wrong(found)
    assert found["ranges"].figure == "numbers of tokens have no range"
    texts = np.array([f"line {i} of a text" for i in range(150)])
    assert not wrong(check([texts]))


def test_several_inputs_are_named():
    x, _ = pictures(150)
    bad = table(150)
    bad[3, 1] = np.nan
    found = check([{"picture": x[:75], "facts": bad[:75]}, {"picture": x[75:], "facts": bad[75:]}])
    assert wrong(found) == {"values": "failed"}
    assert "of 'facts'" in found["values"].figure and found["values"].value == 1


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        ([], {}, "calibration samples: there are no samples"),
        (5, {}, "calibration samples: expected batches"),
        ("d.npz", {}, "calibration samples: expected batches"),
        ({"a": np.zeros(3)}, {}, "calibration samples, batch 0, input 'input': found <U1 of shape ()"),
        ([np.array([object()])], {}, "calibration samples, batch 0, input 'input': found object"),
        (np.zeros((4, 2)), {"labels": np.zeros(3, int)}, "4 samples, but 3 labels"),
        (np.zeros((4, 2)), {"labels": np.zeros(5, int)}, "4 samples, but 5 labels"),
        ([{"a": np.zeros(3), "b": np.zeros(4)}], {}, "the inputs have different numbers of samples: 3, 4"),
        (np.zeros((4, 2)), {"reference": []}, "reference: there are no samples"),
    ],
)
def test_mistakes_are_one_sentence(samples, options, message):
    with pytest.raises(qat.QatError) as error:
        check(samples, **options)
    assert message in str(error.value)


def test_a_growing_range_is_not_settled():
    x, _ = pictures(200)
    found = check(x * np.geomspace(0.2, 5, 200, dtype=np.float32)[:, None, None, None])
    assert wrong(found) == {"ranges": "warned"}


def test_the_document_has_every_figure():
    x, y = pictures(120)
    found = check([(x, y)])
    document = found.to_dict()
    assert list(document) == ["samples", "reference", "checks"]
    assert set(document["checks"][0]) == {"name", "measures", "status", "figure", "threshold", "next_step", "value"}
    assert [row["status"] for row in document["checks"]] == [check.status for check in found.checks]
