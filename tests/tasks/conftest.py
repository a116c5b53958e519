"""The toy project, and one with a result of stage `evaluate`."""

from evaluated_project import evaluated_template as evaluated_template
from toy_project import project as project
from toy_project import ran as ran
from toy_project import ran_template as ran_template
from toy_project import template as template
from toy_project import told as told
