"""Seeded data with known structure, special functions and real data.

To add a task, add an object to one of the modules here, or call `register` in a plugin (`--plugin FILE`).
"""

from benchmarks.tasks import real, special, structures, symbolic
from benchmarks.tasks.base import Expression as Expression
from benchmarks.tasks.base import Missing as Missing
from benchmarks.tasks.base import Part as Part
from benchmarks.tasks.base import Split as Split
from benchmarks.tasks.base import Structure as Structure
from benchmarks.tasks.base import Task as Task
from benchmarks.tasks.base import added as added
from benchmarks.tasks.base import all_tasks as all_tasks
from benchmarks.tasks.base import canonical as canonical
from benchmarks.tasks.base import edges_of as edges_of
from benchmarks.tasks.base import get_task as get_task
from benchmarks.tasks.base import register as register
from benchmarks.tasks.base import register_own
from benchmarks.tasks.base import structure_of as structure_of

register_own(*symbolic.TASKS, *special.TASKS, *real.TASKS, *structures.TASKS, *special.MORE, *real.MORE)
