"""What a policy or critic applies to image observations before its hidden layers."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pgjax.errors import check_count


class ConvTorso(nn.Module):
    """A small convolutional network for images that arrive as flat rows of bytes.

    Use it as the `torso` of a policy or critic with image observations. It has two convolutions, or
    one of 3 x 3 if an image is less than 36 pixels high or wide.

    Args:
      shape: shape of one observation before it was flattened: [H, W], [H, W, C],
        [frames, H, W, C], or [frames, H, W] where W is greater than the number of frames.

    Source: Mnih et al. 2013, Playing Atari with deep reinforcement learning, section 4.1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> torso = pgjax.ConvTorso(shape=(8, 8, 3))
      >>> params = torso.init(jax.random.key(0), jnp.zeros((1, 192)))
      >>> torso.apply(params, jnp.zeros((5, 192))).shape
      (5, 1024)
    """

    shape: Sequence[int]

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map obs [..., prod(shape)], from 0 to 255, to features [..., n]."""
        sizes = [check_count("a number of shape", n) for n in self.shape]
        x = obs.reshape(*obs.shape[:-1], *sizes).astype(jnp.float32) / 255.0
        if len(self.shape) == 2:
            x = x[..., None]
        elif len(self.shape) == 3 and self.shape[-1] > self.shape[0]:  # frames, not colours
            x = jnp.moveaxis(x, -3, -1)
        elif len(self.shape) == 4:
            x = jnp.moveaxis(x, -4, -2)
            x = x.reshape(*x.shape[:-2], -1)
        if min(x.shape[-3:-1]) < 36:
            x = nn.relu(nn.Conv(16, (3, 3))(x))
        else:
            x = nn.relu(nn.Conv(16, (8, 8), strides=4, padding="VALID")(x))
            x = nn.relu(nn.Conv(32, (4, 4), strides=2, padding="VALID")(x))
        return x.reshape(*x.shape[:-3], -1)


class MixedTorso(nn.Module):
    """A ConvTorso for each image in a row of numbers; the other numbers pass unchanged.

    Use it as the `torso` of a policy or critic whose observations hold images and other numbers,
    such as those of a Dict space.

    Args:
      parts: (size, shape) of each part of a row, in order; shape is None where it is no image.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import pgjax
      >>> torso = pgjax.MixedTorso(parts=((2, None), (192, (8, 8, 3))))
      >>> params = torso.init(jax.random.key(0), jnp.zeros((1, 194)))
      >>> torso.apply(params, jnp.zeros((5, 194))).shape  # 2 + 1024
      (5, 1026)
    """

    parts: Sequence[tuple[int, Sequence[int] | None]]

    @nn.compact
    def __call__(self, obs: jax.Array) -> jax.Array:
        """Map obs [..., sum of the sizes] to features [..., n]."""
        features, start = [], 0
        for size, shape in self.parts:
            part = obs[..., start : start + size]
            features.append(part if shape is None else ConvTorso(shape)(part))
            start += size
        return jnp.concatenate(features, -1)
