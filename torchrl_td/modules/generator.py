"""The generator that drafts a feasible plan, and the inverse dynamics that acts on one (4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from torchrl_td.errors import InputError, check_whole
from torchrl_td.modules.choices import chosen
from torchrl_td.modules.common import (
    KeyedModule,
    check_shape,
    dispatched,
    first_width,
    get_entry,
    inverse,
    last_width,
    per_step,
)

Predict = Literal["state", "change"]
_PREDICTIONS = (("predicted", "observation"), ("predicted", "returns_to_go"))
_DRAFT = (("plan", "draft"), ("plan", "returns_to_go"))


class TrajectoryGenerator(KeyedModule):
    """Predicts the next state and returns-to-go, and continues a history into a draft.

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), section 4.2.

    Args:
        network: a :class:`~torchrl_td.networks.TrajectoryTransformer` or
            :class:`~torchrl_td.networks.RecurrentTrajectoryModel`.
        predict: ``"state"`` as in the paper, or ``"change"``: the network's output times
            ``change_scale`` is added to the present state, so that a state which changes by
            a hundredth of its spread in a step needs no hundredfold accuracy.
        change_scale: root mean square of the change in a step, shape [O]; with
            ``predict="change"`` only. Dimensions with scale 0 are copied.
        returns_change_scale: likewise for the scaled returns-to-go.
        horizon: H, if the module shall continue the windows it reads into drafts, as in a
            ``TensorDictSequential`` that plans; ``None`` predicts the next of every position.
        in_keys: keys of the states [..., T, O], returns-to-go [..., T, 1] and mask [..., T];
            without the third, or where that entry is missing, all steps are real.
        out_keys: keys of the states and the returns-to-go written: predictions [..., T, O] and
            [..., T, 1], by default under ``"predicted"``; with a horizon the draft [..., H, O],
            the present first, and its returns-to-go [..., H, 1], by default under ``"plan"``.

    Raises:
        InputError: if ``predict`` is unknown or comes without its scale, the scale is of another
            width than the network's states, or the horizon is below 2.
        KeyError: in use, if an entry is missing.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl_td.modules import TrajectoryGenerator
        >>> from torchrl_td.networks import TrajectoryTransformer
        >>> generator = TrajectoryGenerator(TrajectoryTransformer(3, 14, width=32, layers=1))
        >>> window = TensorDict(
        ...     observation=torch.randn(2, 14, 3),
        ...     returns_to_go=torch.rand(2, 14, 1),
        ...     mask=torch.ones(2, 14, dtype=torch.bool),
        ...     batch_size=[2],
        ... )
        >>> generator(window)["predicted", "observation"].shape
        torch.Size([2, 14, 3])
        >>> history = (window["observation"][:, :7], window["returns_to_go"][:, :7])
        >>> draft, returns_to_go = generator.generate(*history, window["mask"][:, :7], 7)
        >>> draft.shape
        torch.Size([2, 8, 3])
    """

    change_scale: Tensor
    returns_change_scale: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        predict: Predict = "state",
        change_scale: Tensor | None = None,
        returns_change_scale: Tensor | float | None = None,
        horizon: int | None = None,
        in_keys: Sequence[NestedKey] = ("observation", "returns_to_go", "mask"),
        out_keys: Sequence[NestedKey] | None = None,
    ) -> None:
        super().__init__()
        if predict not in get_args(Predict):
            allowed = ", ".join(get_args(Predict))
            raise InputError(f"unknown predict={predict!r}; allowed are {allowed}")
        if horizon is not None:
            check_whole("horizon", horizon, 2)
        if predict == "change" and (change_scale is None or returns_change_scale is None):
            raise InputError("predict='change' needs change_scale and returns_change_scale")
        if change_scale is not None:
            check_shape("change_scale", change_scale, [getattr(network, "observation_dim", "O")])
        self.network = network
        self.predict = predict
        self.horizon = horizon
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys or (_DRAFT if horizon else _PREDICTIONS))
        self.register_buffer(
            "change_scale", torch.ones(1) if change_scale is None else change_scale.float()
        )
        self.register_buffer(
            "returns_change_scale",
            torch.as_tensor(1.0 if returns_change_scale is None else returns_change_scale)
            .float()
            .view(1),
        )

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the predictions, or with a horizon the draft."""
        observation, returns_to_go = (get_entry(self, tensordict, k) for k in self.in_keys[:2])
        mask = observation.new_ones(observation.shape[:-1], dtype=torch.bool)
        for key in self.in_keys[2:]:
            mask = per_step(tensordict.get(key, mask), observation, key)
        if self.horizon is None:
            output = self.predict_raw(observation, returns_to_go, mask)
            values = self._predict(observation, returns_to_go, *output)
        else:
            values = self._draft(observation, returns_to_go, mask, self.horizon)
        return self.write_entries(tensordict, *values)

    def _draft(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor, horizon: int
    ) -> tuple[Tensor, Tensor]:
        batch, needed = observation.shape[:-2], observation.shape[-2] + horizon - 2
        if needed > getattr(self.network, "max_length", needed):
            raise InputError(
                f"a history of {observation.shape[-2]} states and a draft of {horizon} need a "
                f"network of max_length {needed}, this one's is {self.network.max_length}; "
                f"shorten the history"
            )
        draft, returns = self.generate(
            observation.reshape(-1, *observation.shape[-2:]),
            returns_to_go.reshape(-1, *returns_to_go.shape[-2:]),
            mask.reshape(-1, mask.shape[-1]),
            horizon - 1,
        )
        return draft.reshape(*batch, *draft.shape[1:]), returns.reshape(*batch, *returns.shape[1:])

    def predict_raw(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The network's raw output at every position of windows of any batch shape.

        Args:
            observation: shape [..., T, O].
            returns_to_go: shape [..., T, 1].
            mask: bool [..., T], True for real entries.

        Returns:
            What :meth:`targets` gives the aim of, [..., T, O] and [..., T, 1].
        """
        state, returns = self.network(
            observation.reshape(-1, *observation.shape[-2:]),
            returns_to_go.reshape(-1, *returns_to_go.shape[-2:]),
            mask.reshape(-1, mask.shape[-1]),
        )
        return state.reshape(observation.shape), returns.reshape(returns_to_go.shape)

    def generate(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """Continues a history by ``steps`` states, decoding one at a time (eq. 5).

        Plain tensors with static shapes; nothing waits for the device.

        Args:
            observation: history of states, shape [B, L, O], the present last, short ones
                padded at their left.
            returns_to_go: shape [B, L, 1].
            mask: bool [B, L], True for real entries.
            steps: H − 1.

        Returns:
            The draft [B, H, O], the present state first, and its returns-to-go [B, H, 1].
        """
        if not self.network.causal:
            return self.generate_uncached(observation, returns_to_go, mask, steps)
        state, returns = observation[:, -1], returns_to_go[:, -1]
        states, all_returns = [state], [returns]
        cache = None  # which a network without one leaves so
        for number in range(steps):
            if number == 0:
                *output, cache = self.network.start(observation, returns_to_go, mask, steps - 1)
            else:
                *output, cache = self.network.step(state, returns, cache)
            state, returns = self._predict(state, returns, *output)
            states.append(state)
            all_returns.append(returns)
        return torch.stack(states, 1), torch.stack(all_returns, 1)

    def generate_uncached(
        self, observation: Tensor, returns_to_go: Tensor, mask: Tensor, steps: int
    ) -> tuple[Tensor, Tensor]:
        """:meth:`generate` that reads the whole sequence anew for every state.

        The only way without a causal mask, and what the cached one is tested against.
        """
        length = observation.shape[1]
        for _ in range(steps):
            output = self.network(observation, returns_to_go, mask)
            state, returns = self._predict(
                observation[:, -1], returns_to_go[:, -1], *(o[:, -1] for o in output)
            )
            observation = torch.cat([observation, state.unsqueeze(1)], 1)
            returns_to_go = torch.cat([returns_to_go, returns.unsqueeze(1)], 1)
            mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], 1)
        return observation[:, length - 1 :], returns_to_go[:, length - 1 :]

    def targets(
        self,
        observation: Tensor,
        returns_to_go: Tensor,
        next_observation: Tensor,
        next_returns_to_go: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the network's raw output should be for the transitions given, [..., O], [..., 1]."""
        if self.predict == "state":
            return next_observation, next_returns_to_go
        change = next_observation - observation
        returns_change = (next_returns_to_go - returns_to_go) / self.returns_change_scale
        return change * inverse(self.change_scale), returns_change

    def _predict(
        self, observation: Tensor, returns_to_go: Tensor, state_out: Tensor, returns_out: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Under autocast the network's outputs come in half precision.
        state_out, returns_out = state_out.to(observation.dtype), returns_out.to(observation.dtype)
        if self.predict == "state":
            return state_out, returns_out
        return (
            observation + self.change_scale * state_out,
            returns_to_go + self.returns_change_scale * returns_out,
        )


class InverseDynamics(KeyedModule):
    """The action that leads from one state to the next: a_t = f_φ(s_t, s_{t+1}).

    Of `Trajectory Diffuser <https://arxiv.org/abs/2407.16142>`_ (Huang et al., 2024), eq. 3.

    Args:
        network: an MLP on two states.
        change_scale: root mean square of the change in a step, shape [O]. If given, the
            network reads (s_t, (s_{t+1} − s_t) / scale) in place of the two states, so the
            difference that holds the action is of the size of the rest. ``None`` as in the
            paper.
        choices: whether the action is one of A choices: the network scores them, and the action
            has a 1 at the highest.
        in_keys: keys of the two states [..., O], normalised with the same statistics; or one
            key, that of a plan [..., H, O], whose first two states they are.
        out_keys: key of the action [..., A].

    Raises:
        InputError: if the scale is of another width than a state that the network reads.
        KeyError: in use, if an entry is missing.

    Examples:
        >>> import torch
        >>> from torchrl_td.modules import InverseDynamics
        >>> from torchrl.modules import MLP
        >>> inverse_dynamics = InverseDynamics(MLP(2 * 11, 3, num_cells=(256, 256)))
        >>> inverse_dynamics.act(torch.randn(5, 11), torch.randn(5, 11)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        change_scale: Tensor | None = None,
        choices: bool = False,
        in_keys: Sequence[NestedKey] = ("observation", ("next", "observation")),
        out_keys: Sequence[NestedKey] = ("action",),
    ) -> None:
        super().__init__()
        if change_scale is not None:
            reads = first_width(network)
            check_shape("change_scale", change_scale, ["O" if reads is None else reads // 2])
        self.network, self.choices = network, choices
        self.in_keys = list(in_keys)
        self.out_keys = list(out_keys)
        kept = None if change_scale is None else inverse(change_scale).float()
        self.register_buffer("inverse_change_scale", kept)

    @property
    def action_dim(self) -> int | None:
        """A, as far as the network's last layer tells it."""
        return last_width(self.network)

    @dispatched
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the action [..., A] between the two states."""
        entries = self.read_entries(tensordict)
        if len(entries) == 1:
            entries = [entries[0][..., 0, :], entries[0][..., 1, :]]
        return self.write_entries(tensordict, self.act(*entries))

    def act(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """The action [..., A] between two states [..., O]."""
        output = self.output(observation, next_observation)
        return chosen(output) if self.choices else output

    def output(self, observation: Tensor, next_observation: Tensor) -> Tensor:
        """The network's: the action [..., A], or the scores of choices."""
        if self.inverse_change_scale is not None:
            change = (next_observation - observation) * self.inverse_change_scale
            return self.network(observation, change)
        return self.network(observation, next_observation)
