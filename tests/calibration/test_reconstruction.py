"""Block reconstruction: nearer to the float model than calibration, and an ordinary prepared model with an exact artifact."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.adapters import torch as torch_adapter
from qat.arithmetic.simulation import Simulation, simulated
from qat.calibration import reconstruction
from qat.calibration.float_twin import float_twin
from qat.calibration.importance import importance_of
from qat.errors import CalibrationError, ConfigError, DataError
from qat.files import calibrated, own
from qat.files.opened import Opened
from qat.planning.blocks import blocks_of
from support.layer_cases import CASES, outputs, torch_case, train


class Residual(nn.Module):
    """A stem, two residual blocks, and a head."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.first, self.second = (self._branch() for _ in range(2))
        self.head = nn.Linear(8 * 16, 10)

    def _branch(self):
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.first(x))
        x = torch.relu(x + self.second(x))
        return self.head(nn.functional.max_pool2d(x, 2).flatten(1))


@functools.cache
def trained_on_digits():
    """Return a net that reads real digits, and digits: 1200 to learn from, and others."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    x = torch.from_numpy((load_digits().images / 16).astype(np.float32))[:, None]
    y = torch.from_numpy(load_digits().target)
    model = Residual()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in range(150):
        rows = torch.arange(step * 64, step * 64 + 64) % 1200
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), x[:1200], x[1200:]


def divergence(model, got, x):
    with torch.no_grad():
        p, q = (m(x).double().log_softmax(-1) for m in (model, got.eval()))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.slow
def test_a_net_on_real_digits_comes_nearer_at_four_bits(tmp_path):
    model, kept, others = trained_on_digits()
    prepared = qat.calibrate(qat.prepare(model, kept[:2], "static_wi4_ai8"), [kept[:256]])
    before = divergence(model, prepared, others)
    ranges = {name: grid.range.tolist() for name, grid in prepared.grids.items()}
    assert qat.reconstruct(prepared, [kept[:256]], steps=100, progress=False) is prepared
    assert divergence(model, prepared, others) < before / 2
    assert {name: grid.range.tolist() for name, grid in prepared.grids.items()} != ranges
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[others]).parity.exact == 1.0


@pytest.mark.parametrize("framework", ["torch", pytest.param("keras", marks=[pytest.mark.slow, pytest.mark.ci])])
def test_a_model_comes_nearer_and_stays_an_ordinary_one(framework, tmp_path):
    model, x, prepared, name = CASES[framework]()
    want = outputs(model, x)

    def off():
        return float(np.linalg.norm(outputs(prepared, x) - want))

    qat.calibrate(prepared, [x])
    before = off()
    qat.reconstruct(prepared, [x], steps=25, progress=False)
    assert off() < 0.8 * before
    assert qat.export(prepared, tmp_path / name, verify=[x]).parity.exact == 1.0
    train(prepared, x, tmp_path / name)


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    made = []
    for run in range(2):
        _, x, prepared, _ = torch_case()
        qat.reconstruct(qat.calibrate(prepared, [x]), [x], steps=10, progress=False)
        made.append(qat.export(prepared, tmp_path / f"{run}.onnx", verify=[x]).path.read_bytes())
    assert made[0] == made[1]


def test_ctrl_c_leaves_a_model_of_whole_blocks(monkeypatch, tmp_path):
    _, x, prepared, _ = torch_case()
    qat.calibrate(prepared, [x])
    before = {name: p.detach().clone() for name, p in prepared.named_parameters()}
    calls, real = [], torch_adapter.block_gradients

    def interrupted(*args):
        calls.append(args[1])
        if len({block.outputs for block in calls}) > 1:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(torch_adapter, "block_gradients", interrupted)
    with pytest.raises(KeyboardInterrupt):
        qat.reconstruct(prepared, [x], steps=40, progress=False)
    done = {p.op.params["weight"] for p in calls[0].ops if p.weight is not None}
    changed = {name for name, p in prepared.named_parameters() if not torch.equal(p, before[name])}
    assert changed and changed <= done
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


def test_what_is_kept_of_large_samples_is_bounded(monkeypatch):
    _, x, prepared, _ = torch_case()
    qat.calibrate(prepared, [x])
    seen = []
    real = torch_adapter.block_outputs
    monkeypatch.setattr(
        torch_adapter, "block_outputs", lambda *args: seen.append(len(next(iter(args[2].values())))) or real(*args)
    )
    monkeypatch.setattr(reconstruction, "_BATCH", 32)
    monkeypatch.setattr(reconstruction, "_NUMBERS", 40 * 5 * 8 * 8)  # of the widest tensor, 40 samples
    qat.reconstruct(prepared, [x], steps=1, progress=False)
    assert set(seen) == {32, 8}


def test_mistakes_are_named():
    model, x, prepared, _ = torch_case()
    with pytest.raises(CalibrationError, match="reconstruct needs a prepared model"):
        qat.reconstruct(model, [x])
    qat.calibrate(prepared, [x])
    with pytest.raises(DataError, match="reconstruct got no samples"):
        qat.reconstruct(prepared, [])
    with pytest.raises(ConfigError, match="at least one step, not 0"):
        qat.reconstruct(prepared, [x], steps=0)
    with pytest.raises(ConfigError, match="drop is a share"):
        qat.reconstruct(prepared, [x], drop=1.0)


def test_the_importance_of_logits_is_fishers_information():
    model = nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1)).eval()
    prepared = qat.prepare(model, torch.zeros(2, 3))
    linear, _ = prepared.plan.ops
    batches = [{linear.op.inputs[0]: np.float32([[0.5, -1.0, 2.0]])}] * 1500
    found = importance_of(torch_adapter, float_twin(prepared), prepared.plan, batches, [linear.op.output], 0)
    p = outputs(model, torch.from_numpy(batches[0][linear.op.inputs[0]]))[0]
    share = np.mean([batch[linear.op.output][0] for batch in found], 0)
    np.testing.assert_allclose(share / share.sum(), (p - p**2) / (p - p**2).sum(), rtol=0.15)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_the_gradients_of_a_block_are_the_formulas(framework):
    random = np.random.default_rng(0)
    w, x = (random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (32, 4)))
    if framework == "torch":
        model = nn.Linear(4, 3, bias=False)
        model.weight.data = torch.from_numpy(w.copy())
        prepared, weight = qat.prepare(model, torch.zeros(2, 4)), w
        adapter, name = torch_adapter, "weight"
    else:
        import keras

        from qat.adapters import keras as adapter

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
        model.layers[-1].set_weights([w.T])
        prepared, weight = qat.prepare(model), np.ascontiguousarray(w.T)
        name = prepared.plan.ops[0].op.params["weight"]
    qat.calibrate(prepared, [x])
    (op,) = prepared.plan.ops
    source, made = op.op.inputs[0], op.op.output
    grids, groups = {source: (0.05, -20.0, 30.0), made: (0.03, -40.0, 60.0)}, prepared.plan.group_of
    target, importance = (x @ w.T + 0.1).astype(np.float32), random.uniform(size=(32, 3)).astype(np.float32)
    (block,) = blocks_of(prepared.plan)
    error, by_weight, by_scale = adapter.block_gradients(
        float_twin(prepared), block, {source: x}, {made: target}, {made: importance},
        Simulation(grids, {name: weight}, groups), [groups[made]],
    )  # fmt: skip
    read, _, _ = simulated(x, *grids[source])
    y, slope, of_scale = simulated(read @ w.T, *grids[made])
    off = importance * (y - target)
    np.testing.assert_allclose(error, (off * (y - target)).sum(), rtol=1e-4)
    expected = 2 * (off * slope).T @ read
    np.testing.assert_allclose(by_weight[name], expected if framework == "torch" else expected.T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(by_scale[groups[made]], 2 * (off * of_scale).sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("framework", ["torch", "keras"])
def test_dropped_roundings_leave_numbers_as_they_are_and_pass_their_gradient(framework):
    random = np.random.default_rng(0)
    w, x = (random.normal(size=shape).astype(np.float32) for shape in ((3, 4), (32, 4)))
    if framework == "torch":
        model = nn.Linear(4, 3, bias=False)
        model.weight.data = torch.from_numpy(w.copy())
        prepared, adapter = qat.prepare(model, torch.zeros(2, 4)), torch_adapter
    else:
        import keras

        from qat.adapters import keras as adapter

        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, use_bias=False)])
        model.layers[-1].set_weights([w.T])
        prepared = qat.prepare(model)
    qat.calibrate(prepared, [x], progress=False)
    (op,) = prepared.plan.ops
    (block,) = blocks_of(prepared.plan)
    grid, groups = (0.5, -2.0, 2.0), prepared.plan.group_of
    simulation = Simulation({op.op.output: grid}, {}, groups, drop=0.5, seed=3)
    got = adapter.block_outputs(float_twin(prepared), block, {op.op.inputs[0]: x}, simulation)[op.op.output]
    y = x @ w.T
    left = simulation.dropped(y.shape, 1)
    assert 0.3 < left.mean() < 0.7
    np.testing.assert_allclose(got, np.where(left, y, simulated(y, *grid)[0]), atol=1e-5)


def test_with_dropped_roundings_a_block_learns_from_float_inputs_too(monkeypatch, tmp_path):
    _, x, prepared, _ = torch_case()
    qat.calibrate(prepared, [x], progress=False)
    seen, real = [], torch_adapter.block_gradients

    def noted(twin, block, values, targets, importance, simulation, learned):
        seen.append((simulation.drop, simulation.seed, block, {t: v for t, v in values.items() if t in block.inputs}))
        return real(twin, block, values, targets, importance, simulation, learned)

    monkeypatch.setattr(torch_adapter, "block_gradients", noted)
    qat.reconstruct(prepared, [x], steps=3, drop=0.5, progress=False)
    assert {drop for drop, *_ in seen} == {0.5}
    assert len({seed for _, seed, *_ in seen}) == len(seen)
    last = [values for _, _, block, values in seen if block is seen[-1][2]]
    (name,) = last[0]
    assert not np.array_equal(last[0][name], last[1][name])  # another mixture each step
    assert qat.export(prepared, tmp_path / "m.onnx", verify=[x]).parity.exact == 1.0


def test_residual_blocks_end_at_their_sums():
    plan = qat.plan(Residual().eval(), torch.zeros(2, 1, 8, 8))
    blocks = blocks_of(plan)
    assert [[p.op.kind for p in block.ops] for block in blocks][1] == ["conv2d", "conv2d", "add"]
    assert [p for block in blocks for p in block.ops] == list(plan.ops)
    assert all(len(block.outputs) == 1 for block in blocks)


def test_what_has_no_narrow_place_is_divided():
    class Dense(nn.Module):
        """Every layer reads all that come before it."""

        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Conv2d(2 + 2 * i, 2, 1) for i in range(16))

        def forward(self, x):
            for layer in self.layers:
                x = torch.cat([x, torch.relu(layer(x))], 1)
            return x

    class Ladder(nn.Module):
        """A U-Net without its pooling."""

        def __init__(self):
            super().__init__()
            self.down, self.up = (nn.ModuleList(nn.Conv2d(2, 2, 1) for _ in range(8)) for _ in range(2))

        def forward(self, x):
            kept = []
            for layer in self.down:
                x = torch.relu(layer(x))
                kept.append(x)
            for layer in self.up:
                x = torch.relu(layer(x) + kept.pop())
            return x

    for model in (Dense(), Ladder()):
        blocks = blocks_of(qat.plan(model.eval(), torch.zeros(2, 2, 4, 4)))
        assert max(sum(p.weight is not None for p in block.ops) for block in blocks) <= 6
        assert len(blocks) <= 10


def test_a_transformer_has_a_block_for_attention_and_one_for_what_follows():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu", norm_first=True).eval()
    blocks = blocks_of(qat.plan(layer, torch.zeros(2, 5, 8)))
    assert [block.ops[-1].op.kind for block in blocks] == ["add", "add"]


def test_a_run_starts_from_it_and_compares_with_it(tmp_path, monkeypatch):
    from rich.console import Console

    from qat.runs import float_model, stages
    from qat.runs.config import RunConfig
    from qat.runs.data import RunData
    from qat.runs.job import Job

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = RunConfig.model_validate(
        {
            "name": "r", "framework": "torch", "model": {"factory": "qat.runs.zoo_torch:mobilenet_tiny"}, "brecq": True,
            "calibration": {"samples": 16, "reconstruction": True},
        }
    )  # fmt: skip
    job = Job.of(config, tmp_path, tmp_path, Console(quiet=True))
    calls = []
    monkeypatch.setattr("qat.api.ptq_baselines", lambda *_, **__: [])
    real = qat.reconstruct
    monkeypatch.setattr("qat.api.reconstruct", lambda *args: calls.append(args) or real(*args, steps=2))
    data = RunData(config, tmp_path)
    model = float_model.FloatModel(job, data, float_model.untrained(job))
    (entry,) = stages.baselines(job, data, model)
    assert (entry.kind, entry.path.name, entry.parity.exact) == ("ptq", "torch_brecq.onnx", 1.0)
    assert len(calls) == 1
    assert stages.prepare(job, data, model) is calls[1][0]


@pytest.mark.slow
def test_a_file_starts_from_it(tmp_path, monkeypatch):
    model, x, _, _ = torch_case()
    torch.onnx.export(model, (x[:1],), tmp_path / "m.onnx", dynamo=False, dynamic_axes={"x": [0]}, input_names=["x"])
    made = functools.partial(qat.quantize, tmp_path / "m.onnx", x.numpy(), recipe="static_wi4_ai8", overwrite=True)
    monkeypatch.setattr(calibrated, "ROUGH", float("inf"))  # a file that starts from nothing learns no roundings
    plain = made()
    steps, float_runs, outputs = {}, [], Opened.outputs
    monkeypatch.setattr(
        Opened, "outputs", lambda self, net, x: (float_runs.append(x) if net is self.model else None) or outputs(self, net, x)
    )
    for start, call in (("adaround", qat.adaround), ("brecq", qat.reconstruct)):
        monkeypatch.setitem(own._STARTS, start, functools.partial(call, steps=20))
        steps[start] = made(start=start)
        assert steps[start].error_percent < plain.error_percent
        assert steps[start].exact == 1.0
    assert len(float_runs) == 4  # for each file once those that judge, and once those held out
    with pytest.raises(ConfigError, match="unknown start 'brek'"):
        made(start="brek")
    with pytest.raises(ConfigError, match="a start is the tool qat's"):
        made(start="brecq", tool="onnxruntime")
    with pytest.raises(ConfigError, match="no static rule"):
        made(start="brecq", recipe="fp16")
