"""What people run, timed from start to end. To add one, extend `declared.py` or call `register` in a plugin."""

from benchmarks.workflows import declared
from benchmarks.workflows.workflow import Progress as Progress
from benchmarks.workflows.workflow import Reached as Reached
from benchmarks.workflows.workflow import Task as Task
from benchmarks.workflows.workflow import Workflow as Workflow
from benchmarks.workflows.workflow import find_workflow as find_workflow
from benchmarks.workflows.workflow import get_workflow as get_workflow
from benchmarks.workflows.workflow import names as names
from benchmarks.workflows.workflow import register as register

register(*declared.WORKFLOWS)
