"""The averaged weights against closed forms."""

import copy

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from kinema.ema import EMA


class Pair(nn.Module):
    def __init__(self, value=0.0, dtype=torch.float32):
        super().__init__()
        self.trained = nn.Parameter(torch.full((4, 2), value, dtype=dtype))
        self.frozen = nn.Parameter(torch.full((3,), 7.0), requires_grad=False)

    def set(self, value):
        with torch.no_grad():
            self.trained.fill_(value)


def averaged(ema, module):
    with ema.swapped(module):
        return module.trained.detach().clone()


def test_the_average_follows_its_recursion_with_a_warm_up():
    module, ema = Pair(1.0), EMA(0.6)
    values, expected = [3.0, -2.0, 5.0, 4.0, 1.5, 8.0, 0.0, 2.0, 9.0, 1.0], 1.0
    averaged(ema, module)
    for n, value in enumerate(values):
        module.set(value)
        ema.update(module)
        d = min(0.6, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    torch.testing.assert_close(averaged(ema, module), torch.full((4, 2), expected))
    assert ema.num_updates == len(values)


def test_the_swap_is_undone_also_after_an_error():
    module, ema = Pair(1.0), EMA(0.5)
    averaged(ema, module)
    module.set(2.0)
    ema.update(module)
    before = ema.state_dict()["average"]["trained"].clone()
    with pytest.raises(RuntimeError), ema.swapped(module):
        assert module.trained[0, 0] != 2.0
        assert (module.frozen == 7).all()
        raise RuntimeError
    assert (module.trained == 2.0).all()
    assert torch.equal(ema.state_dict()["average"]["trained"], before)


def test_half_precision_weights_are_averaged_in_full():
    module, ema = Pair(1.0, torch.bfloat16), EMA(0.999)
    averaged(ema, module)
    ema.num_updates = 10**6
    module.set(2.0)
    for _ in range(100):
        ema.update(module)  # in bfloat16 no step of .001 would show
    average = ema.state_dict()["average"]["trained"]
    assert average.dtype == torch.float32
    torch.testing.assert_close(average[0, 0].item(), 2 - 0.999**100, rtol=1e-4, atol=0)


def test_the_average_goes_on_from_its_state():
    module, ema = Pair(1.0), EMA(0.9)
    averaged(ema, module)
    module.set(2.0)
    ema.update(module)
    again = EMA(0.9)
    again.load_state_dict(copy.deepcopy(ema.state_dict()))
    module.set(3.0)
    ema.update(module)
    again.update(module)
    assert torch.equal(averaged(ema, module), averaged(again, module))
    assert ema.num_updates == again.num_updates == 2
    with pytest.raises(ValueError, match="average is of other weights: other, trained"):
        again.load_state_dict({"num_updates": 0, "average": {"other": torch.zeros(1)}})
        again.update(module)


def test_sharded_weights_are_averaged_and_saved_whole(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        plain, sharded = Pair(), Pair()
        start = torch.randn(4, 2)
        plain.trained = nn.Parameter(start.clone())
        sharded.trained = nn.Parameter(distribute_tensor(start.clone(), mesh, [Shard(0)]))
        averages = EMA(0.5), EMA(0.5)
        for step in range(3):
            for module, ema in zip((plain, sharded), averages, strict=True):
                with torch.no_grad():
                    module.trained.mul_(step + 1.5)
                ema.update(module)
        state = averages[1].state_dict()
        assert not isinstance(state["average"]["trained"], DTensor)
        assert torch.equal(state["average"]["trained"], averages[0].state_dict()["average"]["trained"])
        again = EMA(0.5)
        again.load_state_dict(state)
        with again.swapped(sharded):
            assert torch.equal(sharded.trained.full_tensor(), state["average"]["trained"])
    finally:
        dist.destroy_process_group()


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, _):
        return self.layer(batch).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize(("accumulate", "every", "updates"), [(1, 1, 8), (2, 1, 4), (1, 3, 2)])
def test_updates_are_counted_in_optimiser_steps(accumulate, every, updates, tmp_path):
    ema = EMA(0.9, every_n_steps=every)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[ema],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Regression(), torch.utils.data.DataLoader(torch.randn(8, 2), batch_size=1))
    assert ema.num_updates == updates


@pytest.mark.parametrize(("decay", "every"), [(1.0, 1), (-0.1, 1), (0.9, 0)])
def test_settings_out_of_range_are_refused(decay, every):
    with pytest.raises(ValueError, match="is"):
        EMA(decay, every_n_steps=every)
