"""Queries that change a part of an image, answered by computing what that part reaches and keeping the rest.

Square's queries change one window: of AutoAttack's 5,000 the last 4,000 one of 5x5 pixels at most. A convolution's
output is new around it only: of Table 1's net a tenth of the second convolution, which is four fifths of a pass.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from ismn_cli.engine.windows import Window, changed, differing, everywhere, reached

SMALL = 0.06
"""Share of an image that a window covers at most, 7x7 pixels of 32x32. Of ResNet-18 a larger one reaches nearly all."""
WORTH = 40
"""Queries about small changes before a net is followed, which takes a second or two the first time in a process."""
SAME = {torch.bfloat16: 0.02, torch.float32: 1e-4}
"""Share of the range of a net's answers by which computing a part may move them: rounding, with room."""
_ATEN = torch.ops.aten


class Local:
    """Answers as ``net`` does, and fast where images are nearly those that it was asked about before.

    For nets in eval mode. With gradients, on a GPU, and where a net's operations cannot be followed or are not all
    that it does, it is asked as it is. after: queries about small changes before it begins.
    """

    def __init__(self, net: nn.Module, after: int = WORTH) -> None:
        self.net, self.after = net, after
        self.graphs: dict[torch.Size, fx.GraphModule | None] = {}
        self._forget()

    def _forget(self) -> None:
        self.in_a_row, self.seen = 0, tuple[Tensor, ...]()
        self.tape: _Tape | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """Return logits [N, K] for x [N, C, H, W], which is kept and must not be changed afterwards."""
        if torch.is_grad_enabled() or x.is_cuda:
            plainly: Tensor = self.net(x)
            return plainly
        if self.seen and self.seen[-1].shape != x.shape:
            self._forget()
        seen, self.seen = self.seen, (*self.seen[-1:], x)
        if len(seen) == 2:
            # Of two queries in a row each changes its own window.
            small = changed(x, seen[1]) <= 2 * SMALL * everywhere(x).area
            self.in_a_row = self.in_a_row + 1 if small else 0
            if self.in_a_row > self.after:
                return self._answer(x, seen)
            self.tape = None
        logits: Tensor = self.net(x)
        return logits

    def _answer(self, x: Tensor, seen: Sequence[Tensor]) -> Tensor:
        tape = self.tape
        window = tape.moved_to(x) if tape else everywhere(x)
        if tape is None or window.area > SMALL * everywhere(x).area:
            # What two queries in a row have in common is what they were made from, but where their windows overlap.
            origin = torch.where(seen[0] == seen[1], seen[1], x)
            new = differing(x, origin)
            if tape is None or 2 * new.area < window.area:
                if x.shape not in self.graphs:
                    self.graphs[x.shape] = followed(self.net, x)
                if (graph := self.graphs[x.shape]) is None:
                    logits: Tensor = self.net(x)
                    return logits
                tape, window = _Tape(graph, origin), new
        self.tape = tape
        return tape.answer(x, window)


def followed(net: nn.Module, x: Tensor) -> fx.GraphModule | None:
    """Return the operations of ``net`` on images of the shape of x [N, C, H, W], or None if they are not all it does.

    That they are shows on noise: where a quarter of each image is exchanged, they have to answer as the net does.
    """
    with torch.random.fork_rng([x.device] if x.is_cuda else []), torch.no_grad():
        torch.manual_seed(0)
        noise, other = torch.rand_like(x), torch.rand_like(x)
        changed, quarter = noise.clone(), Window(0, -(-x.shape[-2] // 2), 0, -(-x.shape[-1] // 2))
        quarter.of(changed).copy_(quarter.of(other))
        try:
            graph: fx.GraphModule = make_fx(functionalize(net))(noise)
            graph.graph.eliminate_dead_code()
            if any(torch.Tag.nondeterministic_seeded in _tags(node) for node in graph.graph.nodes):
                return None
            found, wanted = _Tape(graph, noise).answer(changed, quarter), net(changed)
            span = float(wanted.max() - wanted.min())
            return graph if torch.allclose(found, wanted, rtol=0, atol=SAME[x.dtype] * span, equal_nan=True) else None
        except Exception:  # whatever a stranger's module raises where it is followed
            return None


class _Patch(NamedTuple):
    """What is new of a map: ``maps`` [N, C, h, w], at ``window``."""

    window: Window
    maps: Tensor


class _Tape:
    """A pass over ``images`` with all that was computed on the way, and what of it is new for other images."""

    def __init__(self, graph: fx.GraphModule, images: Tensor) -> None:
        recorder = fx.Interpreter(graph, garbage_collect_values=False)
        recorder.run(images.clone())
        self.known = recorder.env
        self.start, *_, self.end = graph.graph.nodes
        self.steps = list(_steps(graph, self.known))
        self.patches: dict[fx.Node, _Patch] = {}
        self.asked = self.images

    @property
    def images(self) -> Tensor:
        """The images [N, C, H, W] that everything is known of."""
        known: Tensor = self.known[self.start]
        return known

    def moved_to(self, x: Tensor) -> Window:
        """Take over the images that x was made from, where they are those asked about last. Return where x differs."""
        taken = (x != self.asked).flatten(1).sum(1) < (x != self.images).flatten(1).sum(1)
        if bool(taken.any()):
            for node, patch in self.patches.items():
                patch.window.of(_maps(self.known[node]))[taken] = patch.maps[taken]
        self.patches = {}
        return differing(x, self.images)

    def answer(self, x: Tensor, window: Window) -> Tensor:
        """Return what the graph answers for x [N, C, H, W], which differs from `images` in ``window`` alone."""
        self.asked, self.patches = x, {self.start: _Patch(window, window.of(x))}
        whole: dict[fx.Node, Any] = {}

        def value(node: fx.Node) -> Any:
            return whole[node] if node in whole else self.all_of(node)

        for node, rule in self.steps:
            if rule is None:
                args, kwargs = fx.map_arg((node.args, node.kwargs), value)
                whole[node] = node.target(*args, **kwargs)
                continue
            is_new = any(given in self.patches for given in node.all_input_nodes)
            if is_new and (patch := rule(self, node, *node.args)):
                self.patches[node] = patch
        logits: Tensor = value(self.end.args[0])
        return logits

    def all_of(self, node: fx.Node) -> Any:
        """Return what a node gives now."""
        known = self.known[node]
        return self.piece(node, everywhere(known)) if node in self.patches else known

    def piece(self, node: fx.Node, window: Window, outside: float = 0.0) -> Tensor:
        """Return what a node gives now at ``window`` [N, C, h, w], and ``outside`` beyond its borders."""
        known, patch = self.known[node], self.patches.get(node)
        inner = window.common(everywhere(known))
        maps = inner.of(known)
        if patch and (new := inner.common(patch.window)).area:
            if new != inner:
                maps = maps.clone()
                new.seen_from(inner).of(maps).copy_(new.seen_from(patch.window).of(patch.maps))
            else:
                maps = new.seen_from(patch.window).of(patch.maps)
        beyond = window.beyond(inner)
        return functional.pad(maps, beyond, value=outside) if any(beyond) else maps


_Rule = Callable[..., _Patch | None]
"""Takes the tape, the node and its arguments; None: nothing of the node's output is new."""


def _steps(graph: fx.GraphModule, known: dict[fx.Node, Any]) -> Iterator[tuple[Any, _Rule | None]]:
    """Yield what depends on the images, in order, each with how a part of it is computed, or None for all of it."""
    parts, wholes = set[fx.Node](), set[fx.Node]()
    for node in graph.graph.nodes:
        given = set(node.all_input_nodes)
        if node.op == "placeholder":
            parts.add(node)
        elif node.op == "call_function" and given & (parts | wholes):
            rule = None if given & wholes else _rule(node, given & parts, known)
            (parts if rule else wholes).add(node)
            yield node, rule


def _rule(node: fx.Node, given: set[fx.Node], known: dict[fx.Node, Any]) -> _Rule | None:
    if _maps(known[node]).ndim != 4:
        return None
    if given == {node.args[0]}:
        if node.target is operator.getitem and node.args[1] == 0:
            return _first
        if node.target is _ATEN.convolution.default and not node.args[6]:
            return _convolution
        if node.target is _ATEN.max_pool2d_with_indices.default and len(node.args) < 6:
            return _max_pool
        if node.target is _ATEN.native_batch_norm.default and not node.args[5]:
            return _pointwise
    same = all(_maps(known[maps]).shape[-2:] == _maps(known[node]).shape[-2:] for maps in given)
    return _pointwise if same and torch.Tag.pointwise in _tags(node) else None


def _first(tape: _Tape, node: fx.Node, several: fx.Node, _: int) -> _Patch:
    return tape.patches[several]


def _pointwise(tape: _Tape, node: fx.Node, *given: Any) -> _Patch:
    window = functools.reduce(
        Window.around, (tape.patches[maps].window for maps in node.all_input_nodes if maps in tape.patches)
    )
    size = _maps(tape.known[node]).shape[-2:]

    def at(maps: fx.Node) -> Any:
        known = tape.known[maps]
        return tape.piece(maps, window) if known.shape[-2:] == size else known

    args, kwargs = fx.map_arg((given, node.kwargs), at)
    return _Patch(window, _maps(node.target(*args, **kwargs)))  # type: ignore[operator]


def _convolution(
    tape: _Tape, node: fx.Node, x: fx.Node, weight: fx.Node, bias: fx.Node | None, *how: Any
) -> _Patch | None:
    stride, padding, dilation, _, _, groups = how
    weights, biases = tape.known[weight], None if bias is None else tape.known[bias]
    out = tape.known[node]
    window, needed = reached(tape.patches[x].window, out, weights.shape[2:], stride, padding, dilation)
    if not window.area:
        return None
    maps, padding = (tape.all_of(x), padding) if window == everywhere(out) else (tape.piece(x, needed), 0)
    return _Patch(window, functional.conv2d(maps, weights, biases, stride, padding, dilation, groups))


def _max_pool(
    tape: _Tape, node: fx.Node, x: fx.Node, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1
) -> _Patch | None:
    stride = stride or kernel
    window, needed = reached(tape.patches[x].window, _maps(tape.known[node]), kernel, stride, padding, dilation)
    if not window.area:
        return None
    maps = tape.piece(x, needed, outside=-torch.inf)
    return _Patch(window, functional.max_pool2d(maps, kernel, stride, 0, dilation))


def _maps(known: Any) -> Tensor:
    """Return the first of several results, which alone is used further on."""
    maps: Tensor = known[0] if isinstance(known, tuple) else known
    return maps


def _tags(node: fx.Node) -> Sequence[torch.Tag]:
    return getattr(node.target, "tags", ())
