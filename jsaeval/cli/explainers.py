"""From the flags of `jsaeval explain` to an explainer and a simulator."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from jax.sharding import Mesh

from jsaeval.autointerp.evaluate import AT_ONCE, MakeExplainer, Work
from jsaeval.autointerp.explanation import Explainer, RuleSimulator, Simulator
from jsaeval.autointerp.from_file import FileExplainer
from jsaeval.autointerp.function import LatentFunction
from jsaeval.autointerp.host import HostSimulator
from jsaeval.autointerp.kept import KeptExplainer
from jsaeval.autointerp.kept_simulations import KeptSimulator
from jsaeval.autointerp.lookup import Lookup
from jsaeval.autointerp.n2g import N2G
from jsaeval.autointerp.server.calls import Budget
from jsaeval.autointerp.server.client import Server
from jsaeval.autointerp.server.estimate import confirm
from jsaeval.autointerp.server.json_levels import JSONSimulator
from jsaeval.autointerp.server.llm import LLMExplainer
from jsaeval.autointerp.server.logprobs import LogprobSimulator
from jsaeval.autointerp.server.planned import planned
from jsaeval.cli.sections import tokenizer_of
from jsaeval.errors import InputError
from jsaeval.forward.logit_effects import logit_effects, reaches_logits
from jsaeval.hooks import Hook
from jsaeval.lm.card import card_of
from jsaeval.lm.load import load_lm, load_tokenizer
from jsaeval.lm.protocol import HostLM
from jsaeval.lm.tokenizer import TextTokenizer
from jsaeval.mesh import platform_of
from jsaeval.report.latent_record import token_texts
from jsaeval.report.progress import Progress
from jsaeval.sae.module import SAE


if TYPE_CHECKING:
    from jsaeval.cli.explain import Explain

_BY_RULE = ("n2g", "lookup")


@dataclass(frozen=True)
class Tools:
    """What explains and what simulates.

    Attributes:
        explainer: gives the explainer for a dictionary.
        simulator: predicts activations.
        simulator_name: which one it is.
        simulator_lm: the name of the LM that simulates, where it is `host`.
        token_text: the text of a token id.
        server: that is asked, if one is.
        latents: those of which a file holds texts, if it does; in the form of `--latents`.
    """

    explainer: MakeExplainer
    simulator: Simulator
    simulator_name: str
    simulator_lm: str | None
    token_text: Callable[[int], str]
    server: Server | None
    latents: str | None

    def confirm(self, work: Sequence[Work], seed: int, yes: bool) -> None:
        """Before the first call to a server: what there will be, and whether somebody wants it.

        Args:
            work: all of it.
            seed: of the floors.
            yes: it was wanted beforehand.

        Raises:
            InputError: nobody does.
        """
        if self.server is None:
            return
        calls = planned(work, self.simulator, seed)
        print(f"{self.server.name}: {calls.describe(self.server.budget)}", file=sys.stderr)
        confirm(calls, yes, input if sys.stdin.isatty() else None)

    def said(self) -> str | None:
        """What was asked of the server, in a line."""
        return None if self.server is None else f"{self.server.name}: {self.server.summary()}"


def tools(
    command: "Explain",
    lm: HostLM,
    hook: Hook,
    mesh: Mesh,
    kept: Path,
    progress: Progress,
    stop: Callable[[], None],
) -> Tools:
    """What the flags ask for.

    Args:
        command: the flags.
        lm: the language model that is explained.
        hook: where.
        mesh: devices.
        kept: folder for explanations and simulations that are done.
        progress: told of calls to a server, and of prompts.
        stop: called between prompts and calls; it may raise.

    Raises:
        InputError: flags that do not go together, no tokenizer where one is needed, or a server that cannot be asked.
    """
    name = _simulator_name(command)
    needs_words = command.explainer == "llm" or name != "rule"
    tokenizer = tokenizer_of(lm)
    if tokenizer is None and needs_words:
        asked = "--explainer llm" if command.explainer == "llm" else f"--simulator {name}"
        raise InputError(f"{asked}: reads words, but {card_of(lm).name} came without a tokenizer.json")
    text = token_texts(tokenizer)
    texts = None if command.explanations is None else FileExplainer(Path(command.explanations))
    server = _server(command, progress, stop)

    def explainer(sae: SAE, look_alike: str | None) -> Explainer | None:
        match command.explainer:
            case "n2g":
                activate = LatentFunction(lm, sae, hook, mesh=mesh, precision=command.precision)
                n2g = N2G(activate, text, seed=command.seed)
                about = (look_alike or "", sae.card.sha256, card_of(lm).sha256, hook.name, metadata.version("jsaeval"))
                words = "" if tokenizer is None else tokenizer.sha256
                settings = (n2g.seed, n2g.most, activate.start, words, command.precision, command.dtype)
                return KeptExplainer(n2g, kept, (*about, *map(str, settings)))
            case "lookup":
                return Lookup(text)
            case "llm":
                assert server is not None and tokenizer is not None
                promoted = Promoted(lm, sae, hook, text) if command.prompt == "bricken" else None
                return LLMExplainer(server, tokenizer, command.prompt, promoted)
            case "file":
                assert command.explanations is not None
                return None if look_alike else FileExplainer(Path(command.explanations), sae.d_sae)

    host = _host(name, command, lm, mesh)
    simulator = _simulator(name, command, host, tokenizer, mesh, kept, server, progress, stop)
    latents = None if texts is None else ",".join(map(str, sorted(texts.texts))) + ","
    simulator_lm = None if host is None else card_of(host).name
    return Tools(explainer, simulator, name, simulator_lm, text, server, latents)


@dataclass(frozen=True)
class Promoted(Mapping[int, tuple[list[str], list[str]]]):
    """Tokens that a latent makes more and less likely, by latent; worked out when they are asked for."""

    lm: HostLM
    sae: SAE
    hook: Hook
    token_text: Callable[[int], str]

    def __getitem__(self, latent: int) -> tuple[list[str], list[str]]:
        if not reaches_logits(self.hook):
            raise KeyError(latent)
        found = logit_effects(self.lm, self.sae.W_dec[latent][None])
        top, bottom = ([self.token_text(int(id)) for id in ids[0]] for ids in (found.top_ids, found.bottom_ids))
        return top, bottom

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return self.sae.d_sae if reaches_logits(self.hook) else 0


def _server(command: "Explain", progress: Progress, stop: Callable[[], None]) -> Server | None:
    if command.base_url is None:
        return None
    budget = Budget(calls=command.max_calls, tokens=command.max_tokens)
    return Server(command.base_url, command.model, budget, command.concurrency, progress=progress, stop=stop)


def _host(name: str, command: "Explain", lm: HostLM, mesh: Mesh) -> HostLM | None:
    """The LM that simulates, if one does."""
    if name != "host":
        return None
    return lm if command.simulator_lm is None else load_lm(command.simulator_lm, command.dtype, mesh)


def _simulator(
    name: str,
    command: "Explain",
    host: HostLM | None,
    tokenizer: TextTokenizer | None,
    mesh: Mesh,
    kept: Path,
    server: Server | None,
    progress: Progress,
    stop: Callable[[], None],
) -> Simulator:
    if name == "rule":
        return RuleSimulator()
    assert tokenizer is not None
    if host is not None:
        own = load_tokenizer(host)
        how = {"mesh": mesh, "precision": command.precision, "progress": progress, "stop": stop}
        about = ("host", card_of(host).sha256, own.sha256, tokenizer.sha256, metadata.version("jsaeval"))
        # On a CPU a latent takes minutes; accelerators want many prompts.
        at_once = 1 if platform_of(mesh) == "cpu" else AT_ONCE
        settings = (command.precision, command.dtype)
        return KeptSimulator(HostSimulator(host, own, tokenizer, **how), kept, (*about, *settings), at_once)
    assert server is not None
    return (LogprobSimulator if name == "server-logprobs" else JSONSimulator)(server, tokenizer)


def _simulator_name(command: "Explain") -> str:
    """The simulator that is meant."""
    name = command.simulator
    if name is None:
        by_words = "host" if command.base_url is None else "server-json"
        name = "rule" if command.explainer in _BY_RULE else by_words
    if name == "rule" and command.explainer not in _BY_RULE:
        raise InputError(
            f"--simulator rule: follows the rules of {' and '.join(_BY_RULE)}, --explainer {command.explainer} gives "
            "words; take host, server-logprobs or server-json"
        )
    if (command.explainer == "file") != (command.explanations is not None):
        raise InputError("--explanations FILE and --explainer file belong together; one of them is missing")
    asked = [f"--explainer {command.explainer}"] if command.explainer == "llm" else []
    asked += [f"--simulator {name}"] if name.startswith("server") else []
    if asked and command.base_url is None:
        raise InputError(f"{asked[0]}: needs --base-url, the address of an OpenAI-compatible server")
    if not asked and command.base_url is not None:
        raise InputError(f"--base-url: neither --explainer {command.explainer} nor --simulator {name} asks a server")
    if command.simulator_lm is not None and name != "host":
        raise InputError(f"--simulator-lm: --simulator {name} uses none; it belongs to --simulator host")
    return name
