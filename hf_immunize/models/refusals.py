"""Why a checkpoint cannot be loaded, in one line with what to do."""

from __future__ import annotations

__all__ = ["no_head", "no_safetensors", "refusal_of"]


def refusal_of(error: Exception, name: str) -> str | None:
    """What transformers says about a checkpoint that it cannot load, in one line with what to do."""
    text = str(error)
    if "trust_remote_code" in text:
        told = "Read it, then pass trust_remote_code=True (--trust_remote_code) if you trust it."
        return f"{name} runs its own code. {told}"
    if "no classifier head" in text:
        return no_head(name, "its checkpoint holds features only")
    if "Unrecognized configuration class" in text or "Unrecognized model" in text:
        return (
            f"{name} is no image classifier that transformers knows. Choose a model with an …ForImageClassification "
            "class, or a timm one."
        )
    if isinstance(error, OSError) and ("safetensors" in text or "no file named" in text or ".bin" in text):
        return no_safetensors(name)
    return None


def no_safetensors(name: str) -> str:
    """Of a checkpoint that is pickled."""
    return (
        f"{name} has no weights in safetensors, and pickled ones can run any code when they are loaded. Convert them "
        "first (save_pretrained writes safetensors), or choose another checkpoint."
    )


def no_head(name: str, why: str) -> str:
    """Of a checkpoint whose head would be random, or is missing."""
    return (
        f"{name} has no trained classification head: {why}. Choose a fine-tuned classifier, or pass num_labels= for a "
        "new head and train it on the primary task first."
    )
