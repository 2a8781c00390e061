"""Devices: one mesh with the axes ("data", "model"), and functions mapped over the rows of its data axis.

`jax.shard_map` runs a function once per device on that device's rows: it is `pmap`'s successor. Inside a mapped
function every shape is the local one, and a sum over all rows is a `psum` over `DATA`. Outside, arrays are global.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, PyTree

from jsaeval.errors import InputError


DATA, MODEL = "data", "model"


def make_mesh(data: int | None = None, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A (data, model) mesh.

    Args:
        data: devices that share the rows; default all that `model` leaves.
        model: devices that share one copy of the weights. Only 1 for now.
        devices: default all.

    Raises:
        InputError: the devices do not suffice, or `model` is not 1.
    """
    devices = jax.devices() if devices is None else list(devices)
    if model != 1:
        raise InputError(f"mesh {data},{model}: the model axis is not built yet; use DATA,1")
    data = len(devices) if data is None else data
    if not 1 <= data <= len(devices):
        raise InputError(f"mesh {data},{model}: there are {len(devices)} devices; use 1..{len(devices)},1")
    return Mesh(np.array(devices[:data]).reshape(data, model), (DATA, MODEL), axis_types=(AxisType.Auto,) * 2)


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put every array of a pytree on every device of the mesh."""
    return jax.device_put(tree, NamedSharding(mesh, P()))


def shard_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Split the leading axis of every host array of a pytree over the data axis; each host hands over only its rows."""
    sharding = NamedSharding(mesh, P(DATA))

    def put(array: np.ndarray) -> Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def map_rows(function: Callable, mesh: Mesh | None) -> Callable:
    """`function(shared, *per_row)` mapped over the data axis.

    `shared` is the same on every device; the leading axis of everything in `per_row`, and of every output, is rows.
    Rows that do not fill the devices evenly are padded with zeros and the outputs cut back. Without a mesh the function
    is returned as it is.
    """
    if mesh is None:
        return function
    share = mesh.shape[DATA]

    def mapped(shared, *per_row):
        n_rows = jax.tree.leaves(per_row)[0].shape[0]
        arrays, rest = eqx.partition(shared, eqx.is_array)
        run = jax.shard_map(
            lambda arrays, *per_row: function(eqx.combine(arrays, rest), *per_row),
            mesh=mesh,
            in_specs=(P(), *[P(DATA)] * len(per_row)),
            out_specs=P(DATA),
        )
        out = run(arrays, *jax.tree.map(lambda x: pad_rows(x, share), per_row))
        return jax.tree.map(lambda x: x[:n_rows], out)

    return mapped


def pad_rows(x: Array, multiple: int) -> Array:
    """`x` with zero rows added until their number is a multiple."""
    return jnp.pad(x, [(0, -x.shape[0] % multiple)] + [(0, 0)] * (x.ndim - 1))
