"""In every rank of a night: faults can be planted, and steps take a second while it is asked for.

Only so does a night break the same steps on every machine. `$PLANT_FOLDER/pace` asks for it.
"""

import os
import time


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
    from on_load import on_load

    def _slow_down(module):
        module.TrainStep.run = _paced(module.TrainStep.run, f"{os.environ['PLANT_FOLDER']}/pace")

    plant.install(os.environ["PLANT_FOLDER"], os.environ["RANK"])
    on_load("trainer.step", _slow_down)
