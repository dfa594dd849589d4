"""Every Python process with this folder on its path gets the planter, if `$PLANT_FOLDER` is set."""

import os

if "PLANT_FOLDER" in os.environ and "RANK" in os.environ:
    import plant

    plant.install(os.environ["PLANT_FOLDER"], os.environ["RANK"])
