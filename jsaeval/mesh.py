"""Devices: one mesh with the axes ("data", "model"), and functions mapped over it.

Rows are split over `DATA`, weights over `MODEL`: attention by key-value heads, MLPs by their hidden width, embedding
and unembedding by the vocabulary, SAEs by latents. One table says so (`AXES`), by the names of the axes in the
annotations of the weights. What does not divide evenly is padded with zeros, which change nothing: such a head writes
nothing, such a latent never fires, such a token is masked.

`jax.shard_map` runs a function once per device on that device's part: it is `pmap`'s successor. Inside a mapped
function every shape is the local one; a sum over all rows is a `psum` over `DATA`, and a product over a split axis is a
part of the whole one until `summed`. JAX knows which values differ along `MODEL` (`is_split`), so the same code runs on
whole weights, where there is nothing to sum. Outside, arrays are global.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int, PyTree

from jsaeval.errors import InputError


DATA, MODEL = "data", "model"

# Named axis of a weight → axis of the mesh. A weight is whole along every other axis.
AXES = {"kv_head": MODEL, "d_mlp": MODEL, "vocab": MODEL, "latent": MODEL}

_Class = TypeVar("_Class", bound=type)
_split_classes: set[type] = set()


def splits_by_name(cls: _Class) -> _Class:
    """Decorate a module whose arrays are split as `AXES` says, by the axes that their annotations name."""
    _split_classes.add(cls)
    return cls


def make_mesh(data: int | None = None, model: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A (data, model) mesh.

    Args:
        data: devices that share the rows; default all that `model` leaves.
        model: devices that share one copy of the weights.
        devices: default all.

    Raises:
        InputError: the devices do not suffice.
    """
    devices = jax.devices() if devices is None else list(devices)
    n = len(devices)
    if model < 1 or (data is None and n % model):
        sizes = ", ".join(str(size) for size in range(1, n + 1) if n % size == 0)
        raise InputError(f"mesh of {n} devices: {model} on the model axis does not divide them; use one of {sizes}")
    data = n // model if data is None else data
    if data < 1 or data * model > n:
        raise InputError(f"mesh {data},{model}: {data * model} devices are needed, there are {n}")
    if data * model < n and len({device.process_index for device in devices}) > 1:
        raise InputError(f"mesh {data},{model}: with several processes all {n} devices have to be used")
    shape, names, types = (data, model), (DATA, MODEL), (AxisType.Auto,) * 2
    if devices[0].platform == "tpu" and data * model == n:
        # Neighbours on the model axis have to be neighbours on the torus.
        try:
            return jax.make_mesh(shape, names, axis_types=types, devices=devices)
        except NotImplementedError:
            grid = mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
            return Mesh(grid, names, axis_types=types)
    return Mesh(np.array(devices[: data * model]).reshape(shape), names, axis_types=types)


def platform_of(mesh: Mesh | AbstractMesh | None) -> str:
    """What a program on this mesh (None: the default device) is for; a mesh without devices is one of accelerators."""
    if mesh is None:
        return jax.default_backend()
    return "accelerator" if isinstance(mesh, AbstractMesh) else mesh.devices.flat[0].platform


def specs(tree: PyTree) -> PyTree:
    """How every array of a pytree is split: a `PartitionSpec` in its place."""
    return jax.tree.unflatten(jax.tree.structure(tree), _specs_of_leaves(tree))


def _specs_of_leaves(tree: PyTree) -> list[P]:
    out = []
    for leaf in jax.tree.leaves(tree, is_leaf=lambda node: type(node) in _split_classes):
        if type(leaf) not in _split_classes:
            out.append(P())
            continue
        for field in dataclasses.fields(leaf):
            value = getattr(leaf, field.name)
            if field.metadata.get("static") or value is None:
                continue
            if _named_axes(field.type) is None:
                out += _specs_of_leaves(value)
            else:
                out.append(spec_of(type(leaf), field.name))
    return out


def spec_of(cls: type, field: str) -> P:
    """How the array in a field of a decorated class is split."""
    axes = _named_axes({own.name: own.type for own in dataclasses.fields(cls)}[field])
    return P(*(AXES.get(axis) for axis in (axes or "").split()))


def _named_axes(hint: Any) -> str | None:
    """The axes of `Float[Array, "latent d_in"] | None`: "latent d_in"."""
    named = (option for option in (hint, *get_args(hint)) if hasattr(option, "dim_str"))
    return next((option.dim_str for option in named), None)


def padded(tree: PyTree, mesh: Mesh | AbstractMesh, spec: P | None = None) -> PyTree:
    """The same with zeros added along split axes until the devices divide them; `spec`: of every array alike."""

    def pad(spec: P, x: Array | np.ndarray) -> Array | np.ndarray:
        axes = [1 if name is None else mesh.shape[name] for name in spec]
        widths = [(0, -size % count) for size, count in zip(x.shape, axes, strict=False)]
        if not any(after for _, after in widths):
            return x
        return jnp.pad(x, widths + [(0, 0)] * (x.ndim - len(widths)))

    chosen = specs(tree) if spec is None else jax.tree.map(lambda x: spec, tree)
    return jax.tree.map(pad, chosen, tree, is_leaf=lambda node: isinstance(node, P))


def shardings(tree: PyTree, mesh: Mesh | AbstractMesh) -> PyTree:
    """`specs` as shardings on a mesh."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree), is_leaf=lambda node: isinstance(node, P))


def place(tree: PyTree, mesh: Mesh, spec: P | None = None) -> PyTree:
    """Put a pytree of arrays on the devices of a mesh, padded and split as `specs`, or as `spec` for all of them."""
    tree = padded(tree, mesh, spec)
    return _put(
        tree, shardings(tree, mesh) if spec is None else jax.tree.map(lambda x: NamedSharding(mesh, spec), tree)
    )


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """Put every array of a pytree on every device of the mesh."""
    return _put(tree, jax.tree.map(lambda x: NamedSharding(mesh, P()), tree))


def _put(tree: PyTree, places: PyTree) -> PyTree:
    """Every process has the whole of each array, and hands over what its devices hold."""

    def put(x: Any, sharding: NamedSharding) -> Array:
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        host = np.asarray(x)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(put, tree, places)


def array_of(shape: tuple[int, ...], spec: P, mesh: Mesh, read: Callable[[tuple[slice, ...]], np.ndarray]) -> Array:
    """An array on a mesh, split as `spec` says and padded to fit, of which each process reads what its devices hold.

    Args:
        shape: before padding.
        spec: of its axes.
        mesh: the mesh.
        read: gives the part at a tuple of slices.
    """
    axes = [1 if name is None else mesh.shape[name] for name in spec] + [1] * (len(shape) - len(spec))
    full = tuple(size + -size % count for size, count in zip(shape, axes, strict=True))

    def part(index: Any) -> np.ndarray:
        ends = [own.indices(size)[:2] for own, size in zip(index, full, strict=True)]
        inside = tuple(slice(min(a, size), min(b, size)) for (a, b), size in zip(ends, shape, strict=True))
        missing = [(0, (b - a) - (own.stop - own.start)) for (a, b), own in zip(ends, inside, strict=True)]
        return np.pad(read(inside), missing) if any(after for _, after in missing) else read(inside)

    return jax.make_array_from_callback(full, NamedSharding(mesh, spec), part)


def on_host(x: Any) -> np.ndarray:
    """The whole of an array, in every process."""
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
        x = _everywhere(x.sharding.mesh)(x)  # type: ignore
    return np.asarray(x)


@functools.lru_cache
def _everywhere(mesh: Mesh) -> Callable:
    return jax.jit(lambda x: x, out_shardings=NamedSharding(mesh, P()))


def shard_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """Split the leading axis of every host array of a pytree over the data axis; each host hands over only its rows."""
    sharding = NamedSharding(mesh, P(DATA))

    def put(array: np.ndarray) -> Array:
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree)


def map_rows(function: Callable, mesh: Mesh | None, out_specs: P | tuple[P, ...] = P(DATA)) -> Callable:
    """`function(shared, *per_row)` mapped over a mesh.

    `shared` is split as `specs` says; the leading axis of everything in `per_row`, and of every output, is rows. Rows
    that do not fill the devices evenly are padded with zeros and the outputs cut back. Without a mesh the function is
    returned as it is.
    """
    if mesh is None:
        return function
    share = mesh.shape[DATA]

    def mapped(shared, *per_row):
        n_rows = jax.tree.leaves(per_row)[0].shape[0]
        arrays, rest = eqx.partition(padded(shared, mesh), eqx.is_array)
        run = jax.shard_map(
            lambda arrays, *per_row: function(eqx.combine(arrays, rest), *per_row),
            mesh=mesh,
            in_specs=(specs(arrays), *[P(DATA)] * len(per_row)),
            out_specs=out_specs,
        )
        out = run(arrays, *jax.tree.map(lambda x: pad_rows(x, share), per_row))
        return jax.tree.map(lambda x: x[:n_rows], out)

    return mapped


def pad_rows(x: Array, multiple: int) -> Array:
    """`x` with zero rows added until their number is a multiple."""
    return jnp.pad(x, [(0, -x.shape[0] % multiple)] + [(0, 0)] * (x.ndim - 1))


def is_split(x: Array) -> bool:
    """Inside a mapped function: whether a value differs along the model axis. Elsewhere nothing does."""
    kind = jax.typeof(x)
    # jax 0.10.2 calls it so; before it was `vma`.
    return MODEL in (kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma)


def summed(part: Array) -> Array:
    """The sum of the parts that the devices of the model axis hold; `part` itself where it is whole."""
    return lax.psum(part, MODEL) if is_split(part) else part


def largest(part: Array) -> Array:
    """The elementwise maximum of the parts; `part` itself where it is whole. Not differentiated."""
    return lax.pmax(part, MODEL) if is_split(part) else part


def first_index(part: Array, axis: int = 0) -> Int[Array, ""] | int:
    """Where the part of this device begins along a split axis."""
    return lax.axis_index(MODEL) * part.shape[axis] if is_split(part) else 0


def looked_up(take: Callable[[Array], Array], index: Int[Array, "..."], part: Array) -> Array:
    """`take(index)` of something that is split as the first axis of `part`: each device answers for what it holds."""
    if not is_split(part):
        return take(index)
    local = index - first_index(part)
    here = (local >= 0) & (local < part.shape[0])
    found = take(jnp.where(here, local, 0))
    here = here.reshape(here.shape + (1,) * (found.ndim - here.ndim))
    return lax.psum(jnp.where(here, found, jnp.zeros((), found.dtype)), MODEL)


def joined(part: Array, axis: int) -> Array:
    """The whole of what is split along an axis."""
    if not is_split(part):
        return part
    shape = list(part.shape)
    shape[axis] *= lax.axis_size(MODEL)
    # A sum, not a gather: JAX then knows that the result is the same on every device.
    place = lax.dynamic_update_slice_in_dim(jnp.zeros_like(part, shape=shape), part, first_index(part, axis), axis)
    return lax.psum(place, MODEL)


def own_part(whole: Array, like: Array, axis: int) -> Array:
    """What this device holds of something whole, if it were split and padded as `like` is."""
    size, split = like.shape[axis], is_split(like)
    missing = size * (lax.axis_size(MODEL) if split else 1) - whole.shape[axis]
    if missing:
        whole = jnp.pad(whole, [(0, missing if i == axis else 0) for i in range(whole.ndim)])
    return lax.dynamic_slice_in_dim(whole, first_index(like, axis), size, axis) if split else whole
