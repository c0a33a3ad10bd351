"""Saved releases of tiny models."""

from samples import sample_record, tiny_vit

from hf_immunize.release.folder import save_immunized


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def save(folder, record=None, **options):
    model, processor = tiny_vit()
    return save_immunized(folder, model, record or sample_record(), processor, **({"figures": False} | options))
