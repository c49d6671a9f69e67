"""A run that was stopped, in any way, continues and ends with the weights of one that was not."""

import errno
import logging
import os
import shutil
import signal
from itertools import count

import pytest
from PIL import Image

import qat
from qat.errors import ConfigError, DataError, ExportError
from qat.runs import datasets as load
from qat.trainers import TrainingInterrupted, checkpoint
from support.nets import digits, layout, net, prepared, raises, same, train
from support.processes import output_of, start

FRAMEWORKS = ("torch", "keras")


class Crash(Exception):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The models of uninterrupted runs, by framework and optimizer."""
    made = {}

    def of(framework, **options):
        key = (framework, *options.items())
        if key not in made:
            made[key] = train(framework, tmp_path_factory.mktemp("whole"), **options)
        return made[key]

    return of


def crash_at(step):
    """Return the option of :func:`support.nets.train` that fails before the step of this number."""
    return {"interrupt": (step, raises(Crash))}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("optimizer", "step"), [("sgd", 7), ("adam", 13)])
def test_resume_ends_with_the_same_weights(framework, optimizer, step, tmp_path, whole):
    reference, history = whole(framework, optimizer=optimizer)
    with pytest.raises(Crash):
        train(framework, tmp_path, optimizer=optimizer, **crash_at(step))
    # Another start: everything must come from the checkpoint.
    model, resumed = train(framework, tmp_path, prepared(framework, seed=9), optimizer=optimizer, resume=True)
    assert same(model, reference)
    assert resumed.epochs == history.epochs
    assert resumed.steps == 18


def test_resume_computes_with_the_kernels_of_before(tmp_path, monkeypatch):
    """On another machine, which has no cache of this one, and where other kernels are the fastest."""
    from qat.adapters.torch.autograd import conv_gradients, kernel_choice

    plain = conv_gradients.of_weight["float32"].forms[0]
    rough = kernel_choice.Form("rough", lambda *args: tuple(None if g is None else 1.001 * g for g in plain.compute(*args)))
    monkeypatch.setitem(conv_gradients.of_weight, "float32", kernel_choice.Kernel("gradient", (plain, rough), batches=2))

    def machine(name, fastest):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        monkeypatch.setattr(kernel_choice, "_answers", {})
        monkeypatch.setattr(kernel_choice, "_fastest", lambda kernel, args: (kernel.by_name.get(fastest, kernel.forms[0]), True))

    machine("one", "rough")
    reference, _ = train("torch", tmp_path / "whole")
    machine("other", "operator")
    other, _ = train("torch", tmp_path / "other")
    assert not same(reference, other)
    machine("one", "rough")
    with pytest.raises(Crash):
        train("torch", tmp_path / "cut", **crash_at(7))
    machine("other", "operator")
    resumed, _ = train("torch", tmp_path / "cut", prepared("torch", seed=9), resume=True)
    assert same(resumed, reference)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_resume_goes_on_freezing(framework, tmp_path):
    """Weights of 3 bits that flip at a high rate: what is frozen, and what was nearly, is so again after the stop."""
    options = {"freezing": 0.001, "learning_rate": 0.1, "observe_fraction": 0.0, "divergence": None}
    reference, _ = train(framework, tmp_path / "whole", prepared(framework, recipe="static_wi3_ai3"), **options)
    free, _ = train(framework, None, prepared(framework, recipe="static_wi3_ai3"), **options | {"freezing": None})
    assert not same(reference, free)
    with pytest.raises(Crash):
        train(framework, tmp_path / "cut", prepared(framework, recipe="static_wi3_ai3"), **options, **crash_at(13))
    resumed, _ = train(framework, tmp_path / "cut", prepared(framework, seed=9, recipe="static_wi3_ai3"), resume=True, **options)
    assert same(resumed, reference)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_resume_of_a_float_model_with_dropout(framework, tmp_path):
    def model(seed):
        if framework == "torch":
            from torch import nn

            made = net("torch", seed)
            return nn.Sequential(*made[:5], nn.Dropout(0.3), nn.BatchNorm1d(72), made[5])
        import keras

        made = net("keras", seed)
        extra = [keras.layers.Dropout(0.3, seed=seed), keras.layers.BatchNormalization()]
        return keras.Sequential([keras.Input((8, 8, 1)), *made.layers[:3], *extra, made.layers[3]])

    reference, _ = train(framework, tmp_path / "whole", model(0))
    with pytest.raises(Crash):
        train(framework, tmp_path / "cut", model(0), **crash_at(12))
    resumed, _ = train(framework, tmp_path / "cut", model(0), resume=True)
    assert same(resumed, reference)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_resume_of_a_prepared_model_with_dropout(framework, tmp_path):
    def model(seed, dropout=True):
        made, data = net(framework, seed), digits().batches("train", 64, layout(framework))
        samples = next(iter(data))[0]
        if framework == "torch":
            import torch
            from torch import nn

            samples = torch.as_tensor(samples)
            made = nn.Sequential(*made[:5], nn.Dropout(0.3), made[5])
        else:
            import keras

            made = keras.Sequential([keras.Input((8, 8, 1)), *made.layers[:3], keras.layers.Dropout(0.3), made.layers[3]])
        return qat.calibrate(qat.prepare(made, samples[:2], dropout=dropout), [samples])

    reference, _ = train(framework, tmp_path / "whole", model(0))
    without, _ = train(framework, tmp_path / "without", model(0, dropout=False))
    assert len(reference.plan.acts) == 1
    assert not same(reference, without)
    with pytest.raises(Crash):
        train(framework, tmp_path / "cut", model(0), **crash_at(12))
    resumed, _ = train(framework, tmp_path / "cut", model(0), resume=True)
    assert same(resumed, reference)


@pytest.mark.slow
def test_resume_with_a_shuffling_data_loader(tmp_path, caplog):
    import torch
    from torch.utils.data import DataLoader, TensorDataset, default_collate

    x, y = next(iter(digits().batches("train", 288, "NCHW")))
    options = {"epochs": 3, "checkpoint_every": 4, "progress": False, "learning_rate": 0.02}

    def run(folder, own, crash=None, **extra):
        generator, number = torch.Generator().manual_seed(5) if own else None, count()

        def joined(samples):
            if next(number) == crash:
                raise Crash
            return default_collate(samples)

        samples = TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
        data = DataLoader(samples, 32, shuffle=True, generator=generator, collate_fn=joined)
        model = prepared("torch")
        qat.finetune(model, data, checkpoint_dir=folder, **options, **extra)
        return model

    for own in (False, True):
        reference = run(tmp_path / f"whole{own}", own)
        with pytest.raises(Crash):
            run(tmp_path / f"cut{own}", own, crash=15)
        with caplog.at_level(logging.WARNING, "qat"):
            assert same(run(tmp_path / f"cut{own}", own, resume=True), reference)
    assert "3 batches of epoch 2 were seen before and are skipped" in caplog.text


def test_finished_run_is_not_repeated(tmp_path):
    model, history = train("torch", tmp_path)
    again, resumed = train("torch", tmp_path, prepared("torch", seed=9), resume=True)
    assert same(again, model)
    assert resumed.epochs == history.epochs


def test_other_options_are_refused(tmp_path):
    train("torch", tmp_path)
    with pytest.raises(ConfigError, match=r"started with learning_rate=0.02 and would continue with 0.01"):
        train("torch", tmp_path, learning_rate=0.01, resume=True)
    with pytest.raises(ConfigError, match="resume needs checkpoint_dir"):
        train("torch", None, resume=True)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_another_recipe_target_model_or_number_of_batches_is_refused(framework, tmp_path):
    train(framework, tmp_path, epochs=1)
    four_bits = prepared(framework, recipe="static_wi4_ai8")
    with pytest.raises(ConfigError, match="started with recipe='static_wi8_ai8' and would continue with 'static_wi4_ai8'"):
        train(framework, tmp_path, four_bits, epochs=1, resume=True)
    other, theirs = ("litert", "onnxruntime") if framework == "torch" else ("onnxruntime", "litert")
    with pytest.raises(ConfigError, match=f"started with target='{theirs}' and would continue with '{other}'"):
        train(framework, tmp_path, prepared(framework, target=other), epochs=1, resume=True)
    batches = digits().batches("train", 64, layout(framework), shuffle=3)
    options = {"epochs": 1, "learning_rate": 0.02, "observe_fraction": 0.6, "progress": False}
    with pytest.raises(ConfigError, match="started with batches=9 and would continue with 4"):
        qat.finetune(prepared(framework), batches, checkpoint_dir=tmp_path, resume=True, **options)


def test_an_earlier_run_is_kept_unless_it_is_continued(tmp_path, caplog):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").touch()
    for number in range(3):
        with caplog.at_level(logging.WARNING, "qat"):
            train("torch", folder, prepared("torch", seed=number), epochs=1)
    names = {"best.safetensors", "last.safetensors", checkpoint.CURRENT, checkpoint.PREVIOUS}
    assert {path.name for path in folder.iterdir()} == names | {"notes.txt"}
    kept = [tmp_path / f"run.{n}" for n in (1, 2)]
    assert all({path.name for path in aside.iterdir()} == names for aside in kept)
    assert len({(aside / "best.safetensors").read_bytes() for aside in [folder, *kept]}) == 3
    assert f"{folder} held a run: its files are kept in {kept[1]}; resume=True (--resume) continues a run" in caplog.text


def test_best_weights_alone_are_kept_too(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "best.safetensors").write_bytes(b"mine")
    train("torch", folder, epochs=1, resume=True)
    assert (tmp_path / "run.1" / "best.safetensors").read_bytes() == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_finished_run_goes_on_for_more_epochs(framework, tmp_path, caplog):
    """Where neither the schedule nor range tracking knows the length: to the weights of a run that was so long from its start."""
    options = {"schedule": "constant", "observe_fraction": 0.0}
    reference, long = train(framework, tmp_path / "long", epochs=3, **options)
    _, short = train(framework, tmp_path / "short", epochs=1, **options)
    with caplog.at_level(logging.WARNING, "qat"):
        model, more = train(framework, tmp_path / "short", prepared(framework, seed=9), epochs=3, resume=True, **options)
    assert "goes on with epochs=3 in place of 1: schedules are those of that length" in caplog.text
    assert more.epochs == long.epochs
    assert more.epochs[:1] == short.epochs
    assert same(model, reference)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_schedule_of_more_epochs_is_that_of_the_new_length(schedule, tmp_path):
    train("torch", tmp_path / "a", epochs=1, schedule=schedule)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    models = [train("torch", tmp_path / name, epochs=2, schedule=schedule, resume=True)[0] for name in "ab"]
    assert same(*models)
    history = train("torch", tmp_path / "a", epochs=2, schedule=schedule, resume=True)[1]
    assert [epoch.number for epoch in history.epochs] == [1, 2]
    assert history.steps == 18


def test_more_steps_and_an_end_by_patience_go_on_too(tmp_path):
    _, first = train("torch", tmp_path / "steps", max_steps=4)
    _, more = train("torch", tmp_path / "steps", max_steps=13, resume=True)
    assert (first.steps, more.steps) == (4, 13)
    _, stopped = train("torch", tmp_path / "patient", epochs=9, patience=1, learning_rate=1e-9)
    assert len(stopped.epochs) < 9
    _, again = train("torch", tmp_path / "patient", epochs=9, patience=1, learning_rate=1e-9, resume=True)
    assert again.epochs == stopped.epochs
    _, longer = train("torch", tmp_path / "patient", epochs=12, patience=1, learning_rate=1e-9, resume=True)
    assert len(longer.epochs) == len(stopped.epochs) + 1


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    train("torch", tmp_path, epochs=2)
    with pytest.raises(ConfigError, match=r"has done 18 steps, and epochs=1, max_steps=None ask for 9"):
        train("torch", tmp_path, epochs=1, resume=True)


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(damage, tmp_path, caplog, whole):
    with pytest.raises(Crash):
        train("torch", tmp_path, **crash_at(13))
    current = tmp_path / checkpoint.CURRENT
    raw = bytearray(current.read_bytes())
    raw[-5] ^= 1
    current.write_bytes({"truncate": raw[:-100], "flip": raw, "empty": b""}[damage])
    with caplog.at_level(logging.WARNING, "qat"):
        model, _ = train("torch", tmp_path, resume=True)
    assert f"{current} is " in caplog.text
    assert "continuing from step 10" in caplog.text
    assert same(model, whole("torch")[0])


def test_no_whole_checkpoint(tmp_path):
    (tmp_path / checkpoint.CURRENT).write_bytes(b"x")
    with pytest.raises(DataError, match=r"no checkpoint in .* is whole"):
        train("torch", tmp_path, resume=True)


def test_checkpoint_of_another_model(tmp_path):
    from torch import nn

    train("torch", tmp_path, net("torch", 0))
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(DataError, match="another model"):
        train("torch", tmp_path, other, resume=True)


def test_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch, whole):
    original, calls = os.fsync, []

    def full(handle):
        calls.append(handle)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ExportError, match=r"no checkpoint of step 8: .*No space left on device.* is intact"):
            train("torch", tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    model, _ = train("torch", tmp_path, resume=True)
    assert same(model, whole("torch")[0])


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_interrupt_ends_the_step_and_writes_a_checkpoint(framework, tmp_path, whole):
    reference, _ = whole(framework, optimizer="sgd")
    before = signal.getsignal(signal.SIGINT)
    ctrl_c = 4, lambda: os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(TrainingInterrupted, match=r"stopped after step 5 of 18; .*training.safetensors continues it"):
        train(framework, tmp_path, optimizer="sgd", checkpoint_every=None, interrupt=ctrl_c)
    assert signal.getsignal(signal.SIGINT) is before
    model, _ = train(framework, tmp_path, optimizer="sgd", checkpoint_every=None, resume=True)
    assert same(model, reference)


def compare_with_whole(framework, folder, kills, *images):
    name = "best.safetensors" if framework == "torch" else "weights.npz"
    assert output_of(start("job", framework, folder, kills, 1, *images)) == f"{kills}\n0\n"
    killed, whole = ((folder / str(times) / name).read_bytes() for times in (kills, 0))
    assert killed == whole


@pytest.mark.slow
@pytest.mark.ci
def test_killed_once(tmp_path):
    compare_with_whole("torch", tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_killed_ten_times(framework, tmp_path):
    compare_with_whole(framework, tmp_path, 10)


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_killed_while_workers_decode_a_folder(framework, tmp_path):
    whole = load.digits()
    for split, x, y in (("train", whole.train_x[:320], whole.train_y), ("test", whole.test_x[:30], whole.test_y)):
        for index, image in enumerate(x):
            path = tmp_path / "images" / split / str(y[index]) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((15 * image[..., 0]).astype("uint8")).save(path)
    compare_with_whole(framework, tmp_path, 2, tmp_path / "images")
