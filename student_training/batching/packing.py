"""Whether a student keeps packed rows separate, tested before training."""

import inspect
from typing import Any

import torch

from data.errors import ConfigurationError
from student_training.head.lm_head import split_model

#: Lengths of the rows that are tried; the later ones would see the earlier ones if nothing kept them apart.
_PROBE_LENGTHS = (5, 3, 4)


def check_packing(student: Any) -> None:
    """Check that hidden states of rows packed into one sequence are those of the rows on their own.

    Where a model's attention reads only a mask, or its layers carry a state along the sequence, later rows would
    depend on earlier ones: a wrong loss that nothing else would show.

    Args:
        student: the causal language model, with its adapters if any; left as it was found.
    Raises:
        ConfigurationError: when they differ, or when the model takes no position ids at all.
    """
    architecture = type(student.get_base_model() if hasattr(student, "peft_config") else student).__name__
    advice = "leave --packing out; --max-tokens-per-batch and --group-by-length save padding too"
    backbone, head = split_model(student)
    if not _takes_position_ids(student):
        raise ConfigurationError(f"--packing: {architecture} takes no position ids; {advice}")
    device = head.weight.device
    rows = [torch.arange(1, length + 1, device=device)[None] for length in _PROBE_LENGTHS]
    position_ids = torch.cat([torch.arange(length, device=device) for length in _PROBE_LENGTHS])[None]
    was_training = {module: module.training for module in student.modules()}
    student.eval()  # dropout would make the two runs differ
    try:
        with torch.no_grad():
            alone = torch.cat([backbone(input_ids=row)[0] for row in rows]).float()
            packed = backbone(input_ids=torch.cat(rows, 1), position_ids=position_ids)[0].float()
    finally:
        for module, training in was_training.items():
            module.training = training
    # The order of summation changes a few last places of the largest number; seeing other rows changes far more.
    allowed = 100 * torch.finfo(head.weight.dtype).eps * float(alone.abs().max())
    difference = float((packed - alone).abs().max())
    if not difference <= allowed:
        raise ConfigurationError(
            f"--packing: {architecture} does not keep the rows of one sequence apart (hidden states differ by "
            f"{difference:.3g}, allowed {allowed:.3g}); {advice}"
        )


def _takes_position_ids(student: Any) -> bool:
    causal_lm = student.get_base_model() if hasattr(student, "peft_config") else student
    return "position_ids" in inspect.signature(causal_lm.base_model.forward).parameters


def use_varlen_attention(student: Any, *, bf16: bool) -> bool:
    """Switch to flash attention, which skips what packed rows do not see of each other, where it can run.

    It needs CUDA, the package flash-attn, and arithmetic in bfloat16. Everywhere else one block-diagonal mask keeps
    the rows apart, and attention costs what one row of the whole length would cost.

    Returns:
        Whether it is in use now.
    """
    from transformers.utils.import_utils import is_flash_attn_2_available  # noqa: PLC0415  (tries out CUDA)

    if not bf16 or not torch.cuda.is_available() or not is_flash_attn_2_available():
        return False
    causal_lm = student.get_base_model() if hasattr(student, "peft_config") else student
    causal_lm.set_attn_implementation("flash_attention_2")
    return True
