"""Images: what a vision transformer's heads look at where there is no text. Nothing is scored."""

from stages.tasks.images.settings import Settings
from stages.tasks.task import Task

TASK = Task(name="images", order=90, label="images", unit="images", settings=Settings, reads="image", outputs="mean")
