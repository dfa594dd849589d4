import logging
import warnings

import pytest

from trainer.quiet_imports import quiet_imports


def test_notices_of_a_library_are_dropped_while_it_is_imported_and_not_later():
    with quiet_imports():
        warnings.warn("apex is not installed", UserWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="apex is not installed"):
        warnings.warn("apex is not installed", UserWarning, stacklevel=1)


def test_bitsandbytes_goes_on_to_report_errors_alone():
    with quiet_imports():
        pass
    log = logging.getLogger("bitsandbytes")
    levels = logging.WARNING, logging.ERROR
    assert [log.isEnabledFor(level) for level in levels] == [False, True]
