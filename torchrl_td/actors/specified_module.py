"""What an actor offers beside its action, as TorchRL's ``SafeModule`` does."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.data import Composite, TensorSpec

from torchrl_td.actors.tensordict_io import write_entry


class SpecifiedModule(TensorDictModuleBase):
    """Knows the specs of its outputs, the first of which is the action.

    A subclass calls :meth:`set_out_keys` once and has a property ``spec``, made by
    :meth:`specify`.
    """

    spec: Composite

    def set_out_keys(self, outputs: Sequence[NestedKey], state: Sequence[NestedKey]) -> None:
        """Sets ``out_keys``.

        Args:
            outputs: keys of the outputs, ``"_"`` for those that are not written.
            state: keys that the next step reads.
        """
        self._outputs, self._carried = list(outputs), list(state)
        self.out_keys = [*(key for key in outputs if key != "_"), *state]

    def specify(self, *specs: TensorSpec | None) -> Composite:
        """The specs of the outputs by their keys; ``None`` where one is not known."""
        pairs = zip(self._outputs, specs, strict=False)
        return Composite({key: spec for key, spec in pairs if key != "_" and spec is not None})

    def write_outputs(self, tensordict: TensorDictBase, *values: Tensor) -> None:
        """Writes outputs [B, ...] in the tensordict's own batch shape."""
        for key, value in zip(self._outputs, values, strict=False):
            if key != "_":
                write_entry(tensordict, key, value)

    def random(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes a random action, and nothing else."""
        action = self._outputs[0]
        return tensordict.set(action, self.spec[action].rand(tensordict.batch_size))

    def random_sample(self, tensordict: TensorDictBase) -> TensorDictBase:
        """:meth:`random`, by its other name."""
        return self.random(tensordict)

    def select_out_keys(self, *out_keys: NestedKey) -> TensorDictModuleBase:
        """Keeps the outputs named, and what the next step reads."""
        return super().select_out_keys(*out_keys, *self._carried)
