"""The toy project."""

from toy_project import project as project
from toy_project import template as template
