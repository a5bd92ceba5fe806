"""Decision Transformer, of TorchRL's modules and loss: actions that continue a context of steps."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase, TensorDictParams
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Composite, TensorDictReplayBuffer, TensorStorage, Unbounded
from torchrl.envs.transforms import TensorDictPrimer
from torchrl.modules import DTActor
from torchrl.modules.models.decision_transformer import DecisionTransformer
from torchrl.objectives import DTLoss

from torchrl_td.advice import install
from torchrl_td.baselines.algorithm import Baseline
from torchrl_td.baselines.policy import Policy
from torchrl_td.config import Config
from torchrl_td.data.normalizer import Normalizer, check_action, check_floats
from torchrl_td.data.window_sampler import WindowSampler
from torchrl_td.errors import InputError

_ENTRIES = ("observation", "action", "returns_to_go")  # as TorchRL's DTActor takes them


class ContextModel(Policy):
    """TorchRL's ``DTActor`` with what it needs to play.

    Args:
        network: from states [B, K, O], actions [B, K, A] and returns-to-go [B, K, 1] to actions.
        normalizer: fitted on the dataset.
        action_low: lowest actions [A].
        action_high: highest actions [A].
        context: K, steps that it sees.
    """

    def __init__(
        self,
        network: nn.Module,
        normalizer: Normalizer,
        action_low: Tensor,
        action_high: Tensor,
        context: int,
    ) -> None:
        super().__init__(network, normalizer, action_low, action_high, conditioned=True)
        self.context = context

    def actor(self, config: Config) -> ContextActor:
        """The policy; its primer keeps the context in the tensordict."""
        return ContextActor(self)


class ContextActor(TensorDictModuleBase):
    """Plays a :class:`ContextModel`; what it has seen lives in the tensordict under ``"context"``.

    The context fills from its first place on, as the windows of training do; where it is full its
    oldest step makes room. The places after the present are zeros, which no causal network reads.

    Args:
        model: the model.
    """

    def __init__(self, model: ContextModel) -> None:
        super().__init__()
        self.model, self.normalizer = model, model.normalizer
        widths = {"observation": model.normalizer.loc.shape[0], "returns_to_go": 1}
        widths["action"] = model.action_low.shape[0]
        self._spec = Composite(
            {name: Unbounded((model.context, width)) for name, width in widths.items()},
            count=Unbounded((1,), dtype=torch.int64),
        )
        state = [("context", name) for name in (*_ENTRIES, "count")]
        self.in_keys = ["observation", "target_return", "is_init", *state]
        self.out_keys = ["action", *(("next", *key) for key in state)]

    def make_tensordict_primer(self) -> TensorDictPrimer:
        """The transform that puts an empty context into an environment at each reset."""
        return TensorDictPrimer(
            {"context": self._spec}, default_value=0, reset_key="_reset", expand_specs=True
        )

    @torch.no_grad()
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Acts for any batch shape.

        Raises:
            InputError: if there is no context or, on the CPU, what is read or the action is not
                finite.
        """
        if tensordict.get("context", None) is None:
            raise InputError(
                "the policy found no 'context'; append actor.make_tensordict_primer() to the "
                "environment's transforms"
            )
        rows = self._act(tensordict.select(*self.in_keys).reshape(tensordict.batch_size.numel()))
        for key in self.out_keys:
            value = rows.get(key)
            tensordict.set(key, value.reshape(*tensordict.batch_size, *value.shape[1:]))
        return tensordict

    def _act(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Acts for a batch [B] of environments."""
        model, normalizer = self.model, self.normalizer
        observation, target = (check_floats(key, tensordict[key]) for key in self.in_keys[:2])
        fresh = tensordict["is_init"].unsqueeze(-1)  # [B, 1, 1]
        past = {name: tensordict["context", name].masked_fill(fresh, 0) for name in _ENTRIES}
        count = tensordict["context", "count"].masked_fill(tensordict["is_init"], 0)  # [B, 1]
        full = (count >= model.context).unsqueeze(-1)
        past = {name: torch.where(full, value.roll(-1, 1), value) for name, value in past.items()}
        place = count.clamp(max=model.context - 1).unsqueeze(-1)  # [B, 1, 1]
        present = {
            "observation": normalizer.normalize(observation),
            "returns_to_go": normalizer.scale_returns(target),
            "action": torch.zeros_like(past["action"][:, 0]),
        }
        context = {name: _put(past[name], place, present[name]) for name in _ENTRIES}
        actions = context["action"]  # [B, K, A]; of no environment, which TorchRL's cannot take
        if len(observation):
            actions = model.network(*(context[name] for name in _ENTRIES))
        action = actions.gather(1, place.expand(-1, 1, actions.shape[-1])).squeeze(1)
        action = normalizer.denormalize_action(check_action("observation", action))
        action = torch.clamp(action, model.action_low, model.action_high)
        context["action"] = _put(context["action"], place, normalizer.normalize_action(action))
        tensordict["action"] = action
        for name, value in context.items():
            tensordict["next", "context", name] = value
        tensordict["next", "context", "count"] = count + 1
        return tensordict


def _put(sequence: Tensor, place: Tensor, value: Tensor) -> Tensor:
    """A sequence [B, K, D] with a value [B, D] at a place [B, 1, 1] of it."""
    return sequence.scatter(1, place.expand(-1, 1, value.shape[-1]), value.unsqueeze(1))


class _WindowDTLoss(DTLoss):
    """TorchRL's over the steps that are real, under the name of its part."""

    target_actor_network_params: TensorDictParams | None  # which TorchRL warns of otherwise

    def __init__(self, actor_network: Any) -> None:
        super().__init__(actor_network)
        self.loss_mask_key = "mask"

    def train(self, mode: bool = True) -> _WindowDTLoss:
        """Takes the network along, which TorchRL hides from a loss' modules."""
        self.__dict__["actor_network"].train(mode)
        return super().train(mode)

    def forward(self, tensordict: TensorDictBase) -> TensorDict:
        return TensorDict({"loss_dt": super().forward(tensordict)["loss"]})


class DecisionTransformerCloning(Baseline):
    """Decision Transformer (arXiv 2106.01345)."""

    entries = (*_ENTRIES, "episode")

    @classmethod
    def build(
        cls, config: Config, normalizer: Normalizer, action_low: Tensor, action_high: Tensor
    ) -> nn.Module:
        settings = config.algorithm
        assert settings.context is not None
        sizes = DecisionTransformer.DTConfig(
            n_embd=settings.width,
            n_layer=settings.layers,
            n_head=settings.heads,
            n_inner=4 * (settings.width or 0),
            n_positions=3 * settings.context,  # a token each for return, state and action
            resid_pdrop=settings.dropout,
            attn_pdrop=settings.dropout,
        )
        try:
            network = DTActor(normalizer.loc.shape[0], action_low.shape[0], sizes)
        except ImportError:
            raise InputError(
                f"algorithm=dt needs transformers, of which TorchRL's DecisionTransformer is made; "
                f"{install('dt')}"
            ) from None
        return ContextModel(network, normalizer, action_low, action_high, settings.context)

    def make_losses(self) -> dict[str, Any]:
        actor = TensorDictModule(self.model.network, in_keys=list(_ENTRIES), out_keys=["action"])
        return {"dt": _WindowDTLoss(actor)}

    def make_buffers(
        self, normalized: TensorDictBase, batch_size: int, seed: int, device: torch.device
    ) -> dict[str, TensorDictReplayBuffer]:
        """Windows of the context's length that begin at any step, an episode's last one too."""
        data = normalized.select(*self.entries).to(device)
        sampler = WindowSampler(self.config.algorithm.context or 2, history=1)
        storage = TensorStorage(data, device=device)
        sampler.refresh(storage)
        generator = torch.Generator().manual_seed(seed)
        buffer = TensorDictReplayBuffer(
            storage=storage, sampler=sampler, batch_size=batch_size, generator=generator
        )
        return {"windows": buffer}

    def rows(self, batch: TensorDictBase) -> Tensor:
        return batch["index"][:, 0]

    def weight_decay(self, part: str) -> float:
        return self.config.algorithm.weight_decay or 0.0
