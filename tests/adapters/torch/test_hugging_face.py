"""Hugging Face models in Hugging Face's Trainer as they are: loss, evaluation, checkpoints, and what else it asks for."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import qat
from qat.errors import ConfigError, DataError

transformers = pytest.importorskip("transformers")
LENGTH, WORDS = 8, 30


def bert(kind="BertForSequenceClassification", **options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LENGTH, **options,
    )  # fmt: skip
    return getattr(transformers, kind)(config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=LENGTH, use_cache=False)
    return transformers.GPT2LMHeadModel(config).eval()


def mixtral():
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, intermediate_size=32,
        num_local_experts=4, max_position_embeddings=LENGTH, use_cache=False,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


def ids(count=8, seed=0):
    words = torch.randint(1, WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": words, "attention_mask": torch.ones_like(words)}


def prepared(model, names=("input_ids", "attention_mask")):
    inputs = {name: value for name, value in ids(32).items() if name in names}
    return qat.calibrate(qat.prepare(model, inputs), [inputs])


CLASSES, TOKENS = torch.arange(8) % 2, torch.where(torch.rand(8, LENGTH) < 0.5, ids()["input_ids"], -100)
LABELS = {
    "BertForSequenceClassification": {"labels": CLASSES},
    "BertForTokenClassification": {"labels": torch.where(TOKENS < 0, -100, TOKENS % 2)},
    "BertForMaskedLM": {"labels": TOKENS},
    "BertForQuestionAnswering": {"start_positions": CLASSES, "end_positions": CLASSES + 2},
    "BertForMultipleLabels": {"labels": torch.rand(8, 2).round()},
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "BertForQuestionAnswering" else pytest.mark.slow) for kind in LABELS]
)
def test_the_loss_is_the_models_own(kind):
    several = kind == "BertForMultipleLabels"
    options = {"problem_type": "multi_label_classification"} if several else {}
    model = bert("BertForSequenceClassification" if several else kind, **options)
    labels, inputs = LABELS[kind], ids()
    before = qat.prepare(model, inputs).eval()  # in float
    with torch.no_grad():
        wanted, found = (m(**inputs, **labels) for m in (model, before))
    assert type(found) is type(wanted) and next(iter(found)) == "loss"
    torch.testing.assert_close(found.loss, wanted.loss, rtol=1e-4, atol=1e-5)
    trained = qat.calibrate(before, [ids(32)]).train()
    trained(**{name: x[:3] for name, x in {**inputs, **labels}.items()}).loss.backward()  # any number of samples
    assert sum(float(p.grad.abs().sum()) for p in trained.parameters() if p.grad is not None) > 0
    assert "loss" not in trained(**inputs)


@pytest.mark.slow
def test_the_loss_of_a_causal_model_is_shifted():
    model, words = gpt2(), ids()["input_ids"]
    before = qat.prepare(model, {"input_ids": words}).eval()
    with torch.no_grad():
        torch.testing.assert_close(before(words, labels=words).loss, model(words, labels=words).loss, rtol=1e-4, atol=1e-5)


def test_a_loss_of_more_than_the_outputs_is_refused():
    class Contrastive(nn.Module):
        def __init__(self):
            super().__init__()
            self.config = transformers.BertConfig()
            self.layer, self.centres = nn.Linear(4, 3), nn.Parameter(torch.randn(2, 3))

        def forward(self, x, labels=None):
            y = self.layer(x)
            loss = {} if labels is None else {"loss": (y - self.centres[labels]).square().mean()}
            return {**loss, "y": y}

    x = torch.randn(8, 4)
    model = qat.calibrate(qat.prepare(Contrastive().eval(), x), [x])
    with pytest.raises(DataError, match="computes its loss from more than its outputs and labels: compute the loss outside"):
        model(x, labels=CLASSES)


def trainer(model, folder, steps, **options):
    data = [{**{name: value[i] for name, value in ids(16).items()}, "labels": torch.tensor(i % 2), "line": i} for i in range(16)]
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=8, learning_rate=1e-3, save_steps=2, eval_steps=2,
        eval_strategy="steps", report_to=[], disable_tqdm=True, use_cpu=True, seed=3, **options,
    )  # fmt: skip
    found = {}

    def metrics(evaluation):
        found["labels"] = np.asarray(evaluation.label_ids)
        return {"right": float((evaluation.predictions.argmax(-1) == evaluation.label_ids).mean())}

    made = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=metrics)
    made.found = found
    return made


@pytest.mark.slow
@pytest.mark.ci
def test_the_trainer_trains_evaluates_saves_and_resumes(tmp_path):
    model = prepared(bert())
    fresh = copy.deepcopy(model)
    whole = trainer(model, tmp_path / "run", 4, load_best_model_at_end=False)
    whole.train()
    evaluated = whole.evaluate()
    assert np.isfinite(evaluated["eval_loss"]) and 0 <= evaluated["eval_right"] <= 1 and len(whole.found["labels"]) == 16
    trainer(fresh, tmp_path / "run", 4).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=0, atol=0)
    whole.save_model(str(tmp_path / "saved"))
    loaded = qat.load_prepared(qat.prepare(bert(), ids()), tmp_path / "saved" / "model.safetensors")
    model.save_pretrained(tmp_path / "own")
    assert transformers.AutoConfig.from_pretrained(tmp_path / "own").hidden_size == model.config.hidden_size == 16
    for other in (loaded, qat.load_prepared(qat.prepare(bert(), ids()), tmp_path / "own" / "model.safetensors")):
        torch.testing.assert_close(other.eval()(**ids()).logits, model.eval()(**ids()).logits, rtol=0, atol=0)
    assert qat.export(model, tmp_path / "net.onnx", verify=[ids()]).parity.exact == 1.0


@pytest.mark.slow
def test_a_causal_model_trains_under_the_trainer(tmp_path):
    model = prepared(gpt2(), ("input_ids",))
    words = ids(16)["input_ids"]
    data = [{"input_ids": x, "labels": x} for x in words]
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=4, gradient_accumulation_steps=2, learning_rate=1e-2,
        save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    made = transformers.Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    before = made.evaluate()["eval_loss"]
    made.train()
    assert made.evaluate()["eval_loss"] < before
    assert qat.export(model.eval(), tmp_path / "net.onnx", verify=[{"input_ids": words}]).parity.exact == 1.0


@pytest.mark.slow
def test_gradient_checkpointing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a prepared model has no gradient checkpointing"):
        trainer(prepared(bert()), tmp_path, 1, gradient_checkpointing=True).train()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "litert"])
def test_a_mixture_of_experts_runs_any_choice_of_them(target):
    """Tokens were sorted by their experts, by operators that no format has."""
    model, words = mixtral(), {"input_ids": ids(12)["input_ids"]}
    chosen = model.config._experts_implementation
    prepared = qat.prepare(model, {"input_ids": words["input_ids"][:2]}, target=target).eval()
    assert model.config._experts_implementation == chosen  # the user's model stays as it is
    with torch.no_grad():
        torch.testing.assert_close(prepared(**words).logits, model(**words).logits, rtol=1e-4, atol=1e-5)
