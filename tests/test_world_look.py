"""The judge of made worlds reads clips with texture, noise and a panning camera as it reads flat ones."""

from kinema_data.worlds import Look, World, prompts, render
from kinema_metrics import WorldAccuracy


def test_the_judge_sees_through_texture_noise_and_a_pan():
    for scale, size in ((1, (9, 32, 32)), (2, (9, 64, 96))):
        world = World(scale, Look(texture=10, noise=5, camera=12))
        metric = WorldAccuracy(world.to_dict())
        metric.update(render(prompts(world, "report", 150, 0, sizes=[size])))
        assert metric.compute()["all"] >= 0.97
