import jax.numpy as jnp
import numpy as np

from pgjax.numerics.packing import lay_out, pack, split, unpack


def test_arrays_of_one_dtype_lie_side_by_side():
    layout = lay_out([((2,), np.float32), ((), np.uint32), ((1, 3), np.float32)])
    assert layout.widths == (5, 1)
    floats, ints = np.arange(10, dtype=np.float32).reshape(2, 5), np.array([[7], [8]], np.uint32)
    first, second, third = split(layout, [floats, ints])
    np.testing.assert_array_equal(first, [[0, 1], [5, 6]])
    np.testing.assert_array_equal(second, [7, 8])
    np.testing.assert_array_equal(third, [[[2, 3, 4]], [[7, 8, 9]]])


def test_unpacking_is_the_inverse_of_packing():
    info = {"loss": jnp.float32(0.5), "episodes": jnp.int32(3), "entropy": jnp.float32(2.0)}
    packed = pack(info)
    assert {names: x.shape for names, x in packed.items()} == {
        ("loss", "entropy"): (2,),
        ("episodes",): (1,),
    }
    values = unpack(packed)
    assert list(values.items()) == [("entropy", 2.0), ("episodes", 3), ("loss", 0.5)]
    assert [type(x) for x in values.values()] == [np.float32, np.int32, np.float32]
    arrays = unpack(pack({"a": jnp.arange(2), "b": jnp.arange(2) + 5}))
    np.testing.assert_array_equal(arrays["b"], [5, 6])
