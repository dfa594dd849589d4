"""In every rank of a night: faults can be planted, and steps take a second while it is asked for.

Only so does a night break the same steps on every machine. `$PLANT_FOLDER/pace` asks for it.
"""

import importlib.abc
import importlib.util
import os
import sys
import time

STEP = "trainer.step"


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, pace):
        self.pace = pace

    def find_spec(self, name, path, target=None):
        if name != STEP:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_wrap(module):
            load(module)
            module.TrainStep.run = _paced(module.TrainStep.run, self.pace)

        spec.loader.exec_module = load_and_wrap
        return spec


def _paced(run, pace):
    def paced(*arguments):
        began = time.monotonic()
        result = run(*arguments)
        if os.path.exists(pace):  # noqa: PTH110 - this file must not import much
            time.sleep(max(0.0, began + 1.0 - time.monotonic()))
        return result

    return paced


if "PLANT_FOLDER" in os.environ and "RANK" in os.environ:
    import plant

    plant.install(os.environ["PLANT_FOLDER"], os.environ["RANK"])
    sys.meta_path.insert(0, _Finder(f"{os.environ['PLANT_FOLDER']}/pace"))
