"""The pickle inside a torch file, read by a machine of our own that can build tensors and nothing else.

Python's `pickle` calls what a file names, and even with a short list of allowed names a file can set attributes of what
is on it. Here no name is ever looked up: the few that tensors need are known by their text, everything else is refused
by name. Objects of `RECORDS` packages (the configurations that some trainers pickled beside their weights) become inert
`Record`s, which hold attributes and have no behaviour. Every loop is over the bytes of the pickle, whose number is
bounded by the caller. The result may hold one list or tuple in many places: to hash, compare or print what is no
number or text can take for ever.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from jsaeval.errors import InputError


# Packages whose objects are rebuilt without behaviour.
RECORDS = ("sae_training", "sae_lens")

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_LITERALS |= {"BINBYTES", "SHORT_BINBYTES"}
_DTYPES = {"float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"}


@dataclass
class Record:
    """What is left of a pickled object: the name of its class, and its attributes."""

    name: str
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Name:
    """A global of the pickle, by its text."""

    text: str

    @property
    def is_record(self) -> bool:
        return self.text.split(".")[0] in RECORDS


def unpickle(
    stream: BytesIO,
    where: str,
    storage: Callable[[tuple[Any, ...]], Any],
    tensor: Callable[..., Any],
) -> Any:
    """The object of one pickle: dictionaries, lists, tuples, numbers, text, tensors and records.

    Args:
        stream: read up to the end of the pickle and no further.
        where: names the file in errors.
        storage: makes a storage of the persistent id that names one.
        tensor: makes a tensor of (storage, offset, size, stride).

    Raises:
        InputError: the pickle is damaged, or holds something else.
    """
    machine = _Machine(where, storage, tensor)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        (result,) = machine.stack
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError):
        raise InputError(f"{where}: its pickle is damaged; fetch the file again") from None
    return result


class _Machine:
    def __init__(self, where: str, storage: Callable, tensor: Callable):
        self.where, self.stack, self.marks, self.memo = where, [], [], {}
        self._storage, self._tensor = storage, tensor

    def step(self, name: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        if name in _LITERALS:
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _NEW:
            push(_NEW[name]())
        elif name in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if argument is None else argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            push(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            push(tuple(self._above_mark() if name == "TUPLE" else self._last(int(name[-1]))))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [pop()] if name == "APPEND" else self._above_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._last(2) if name == "SETITEM" else self._above_mark()
            self._set(self._top(dict), items)
        elif name == "GLOBAL":
            push(self._named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            module, member = self._last(2)
            if type(module) is not str or type(member) is not str:
                raise TypeError
            push(self._named(module, member))
        elif name == "BINPERSID":
            push(self._storage(pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            target, arguments = self._last(2)
            push(self._made(target, arguments))
        elif name == "BUILD":
            self._build(pop())
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise InputError(f"{self.where}: its pickle uses {name}, which no torch file needs; it is not read")

    def _last(self, n: int) -> list[Any]:
        items = self.stack[len(self.stack) - n :]
        del self.stack[len(self.stack) - n :]
        if len(items) != n:
            raise IndexError
        return items

    def _above_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError
        return self.stack[-1]

    def _set(self, target: dict, items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, (str, int, float)):  # hashing a nested tuple can take for ever
                raise InputError(f"{self.where}: a key in its pickle is a {type(key).__name__}; it is not read")
            target[key] = value

    def _named(self, module: str, name: str) -> Any:
        """A dtype, as text, or something that is only known by name."""
        if module == "torch" and name in _DTYPES:
            return name
        found = Name(f"{module}.{name}")
        if found.is_record or found.text in _MAKERS or (module.startswith("torch") and name.endswith("Storage")):
            return found
        raise InputError(f"{self.where}: its pickle names {found.text[:100]!r}; only tensors are read, nothing is run")

    def _made(self, target: Any, arguments: Any) -> Any:
        if type(target) is not Name or type(arguments) is not tuple:
            raise TypeError
        if target.is_record:
            return Record(target.text)
        if target.text in _TENSORS:
            return self._tensor(*arguments[:4])
        return _MAKERS[target.text](*arguments)

    def _build(self, state: Any) -> None:
        built = self.stack[-1]
        if type(built) is Record:
            parts = state if isinstance(state, tuple) else (state,)  # attributes, and perhaps those in slots
            for part in parts:
                self._set(built.attributes, [x for item in (part or {}).items() for x in item])
        elif type(built) is not dict:  # that of an OrderedDict says which module a tensor is of
            raise TypeError


_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_MAKERS: dict[str, Any] = dict.fromkeys(_TENSORS) | {
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
    "torch.Size": lambda sizes: sizes,
    "torch.device": lambda kind, index=None: kind if index is None else f"{kind:s}:{index:d}",
}
