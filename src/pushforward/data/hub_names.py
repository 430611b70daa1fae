"""Whether a name is one of the Hugging Face hub's, asked without torch, so that a wrong one is said at once."""

from __future__ import annotations

from collections.abc import Sequence

from pushforward.errors import UserError, nearest


def ask(name: str, local: Sequence[str]) -> tuple[type[Exception], ...]:
    """Raises UserError where neither the hub nor what was fetched from it before has a set of this name ("owner/name", or
    "owner/name:configuration"). local: names that may have been meant. Returns the errors that keep the hub from answering."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    # Those of whichever HTTP library it is built on, of sockets, of odd names.
    unreachable: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError)  # type: ignore[arg-type]
    repository = name.partition(":")[0]
    try:
        HfApi().dataset_info(repository, timeout=5)
    except RepositoryNotFoundError:
        raise UserError(
            f"'{name}' is no file, no folder, no built-in data and no data set of the Hugging Face hub; {nearest(name, local)}"
        ) from None
    except unreachable as error:  # what was fetched before still loads
        from datasets.exceptions import DatasetsError
        from datasets.load import CachedDatasetModuleFactory

        try:
            CachedDatasetModuleFactory(repository).get_module()
        except (DatasetsError, OSError, ValueError):
            raise UserError(
                f"'{name}' is no file, no folder and no built-in data, and the Hugging Face hub cannot be asked for it "
                f"({type(error).__name__}); {nearest(name, local)}"
            ) from None
    return unreachable
