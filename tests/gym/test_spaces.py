"""Every kind of space: what a policy sees, and which spaces are images."""

import jax
import numpy as np
import pytest
from gymnasium import spaces
from spaces_envs import F32, KINDS, SPACES

import pgjax
from pgjax.gym.spaces import describe_inputs, image_parts, image_shape, observations


@KINDS
def test_observations_are_encoded_as_gymnasium_flattens_them(kind):
    space = SPACES[kind]
    seen = observations(space)
    space.seed(0)
    for _ in range(20):
        obs = space.sample()
        row = seen.encode(obs)
        assert row.shape == (seen.size,)
        np.testing.assert_allclose(row, spaces.flatten(space, obs), rtol=1e-6)
        assert np.asarray(row, seen.dtype).dtype == seen.dtype


WRONG = {
    "Discrete": [2, -2, 0.5, "a", None, [0], [[0], [0, 1]]],
    "MultiDiscrete": [[1, 0, 5], [-1, 3, 5], [-1, 0, 4], [0, 0], 0, [-1.0, 0.0, 5.0]],
    "MultiBinary": [[0, 1], [0.5, 0, 0], None],
    "Dict": [{}, {"a": [0.0, 0.0]}, {"a": [0.0, 0.0], "b": 7}, [0, 1], {"a": [0.0], "b": 0}],
    "Tuple": [([0, 1],), ([0, 1], 0, 0), ([0, 1], 2), 3],
}


@pytest.mark.parametrize(("kind", "obs"), [(k, obs) for k, all_ in WRONG.items() for obs in all_])
def test_an_observation_outside_of_the_space_is_refused(kind, obs):
    with pytest.raises(
        ValueError, match=r"^the observation (is|has shape) .*, but the space needs"
    ):
        observations(SPACES[kind]).encode(obs)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64])
def test_discrete_observations_may_have_any_integer_dtype(dtype):
    start = 100 if dtype == np.int8 else 0
    seen = observations(spaces.MultiDiscrete([3, 4], dtype=dtype, start=[start, start]))
    row = seen.encode(np.array([start + 2, start + 1], dtype))
    np.testing.assert_array_equal(row, [0, 0, 1, 0, 1, 0, 0])


def test_large_integers_do_not_wrap_around():
    seen = observations(spaces.Box(0, 2**40, (2,), np.int64))
    row = np.asarray(seen.encode(np.array([2**35, 3])), seen.dtype)
    np.testing.assert_array_equal(row, [2.0**35, 3.0])


@pytest.mark.parametrize(("space", "shape"), [
    (spaces.Box(0, 255, (96, 96, 3), np.uint8), (96, 96, 3)),
    (spaces.Box(0, 255, (4, 84, 84), np.uint8), (4, 84, 84)),
    (spaces.Box(0, 255, (4, 96, 96, 3), np.uint8), (4, 96, 96, 3)),
    (spaces.Box(0, 255, (10, 10), np.uint8), (10, 10)),
    (spaces.Box(0, 255, (84, 84, 6), np.uint8), (84, 84, 6)),
    (spaces.Box(0, 255, (128,), np.uint8), None),
    (spaces.Box(0, 1, (96, 96, 3), np.uint8), None),
    (spaces.Box(0, 255, (96, 96, 3), np.float32), None),
    (spaces.Discrete(3), None),
])  # fmt: skip
def test_spaces_that_are_images(space, shape):
    assert image_shape(space) == shape


@pytest.mark.parametrize("shape", [(40, 44, 3), (2, 10, 12, 3)])
def test_policies_take_images_in_batches_of_any_shape(shape):
    torso = pgjax.ConvTorso(shape)
    policy = pgjax.SoftmaxPolicy(3, (8,), torso=torso)
    size = int(np.prod(shape))
    params = policy.init(jax.random.key(0), np.zeros(size, np.uint8))
    pixels = np.random.default_rng(0).integers(0, 256, (2, size)).astype(np.uint8)
    logits = policy.apply(params, pixels).logits
    assert logits.shape == (2, 3)
    one = policy.apply(params, pixels[0]).logits
    np.testing.assert_allclose(one, logits[0], rtol=1e-4, atol=1e-6)


def test_channels_of_images():
    """Colours, frames, and frames with colours, against values by hand."""
    for shape, channels in (
        ((10, 12), 1),
        ((10, 12, 3), 3),
        ((10, 12, 6), 6),
        ((5, 10, 12), 5),
        ((2, 10, 12, 3), 6),
    ):
        params = pgjax.ConvTorso(shape).init(jax.random.key(0), np.zeros(np.prod(shape), np.uint8))
        assert params["params"]["Conv_0"]["kernel"].shape == (3, 3, channels, 16)
    # Frame 1, row 2, column 3, colour 0 is in channel 1 * 3 + 0.
    shape = (2, 10, 12, 3)
    torso = pgjax.ConvTorso(shape)
    params = torso.init(jax.random.key(0), np.zeros(np.prod(shape), np.uint8))
    kernel = np.zeros((3, 3, 6, 16), F32)
    kernel[1, 1, 3, 7] = 1.0  # copies channel 3 to feature 7
    params = {"params": {"Conv_0": {"kernel": kernel, "bias": np.zeros(16, F32)}}}
    pixels = np.zeros(shape, np.uint8)
    pixels[1, 2, 3, 0] = 255
    features = torso.apply(params, pixels.ravel()).reshape(10, 12, 16)
    assert float(features[2, 3, 7]) == 1.0
    assert float(features.sum()) == 1.0


@pytest.mark.parametrize(
    ("space", "text"),
    [
        (spaces.Box(0, 255, (96, 96, 3), np.uint8), "an image (96, 96, 3) through convolutions"),
        (spaces.Box(0, 255, (4, 4, 3), np.uint8), "48 numbers"),
        (spaces.Discrete(1), "1 number"),
        (
            spaces.Dict(
                a=spaces.Discrete(2),
                b=spaces.Dict(camera=spaces.Box(0, 255, (8, 9), np.uint8)),
                c=spaces.MultiBinary(3),
                d=spaces.Box(-1.0, 1.0, (2, 2)),
            ),
            "2 numbers, an image (8, 9) through convolutions, 7 numbers",
        ),
    ],
)
def test_what_a_network_does_with_observations(space, text):
    assert describe_inputs(space) == text
    assert sum(size for size, _ in image_parts(space)) == observations(space).size
