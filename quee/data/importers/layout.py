"""Finds which folders of images are the training set, the evaluation set and the classes, from names alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from quee.data.importers.report import Report, counted
from quee.data.importers.sets import NO_CLASS, choose_evaluation, resembles, role
from quee.data.walk import IMAGE_SUFFIXES, Walk, class_name, shown, some
from quee.errors import QueeError, UsageError


@dataclass
class Folder:
    """A folder below the source; `name` has `/` between folders and is "" for the source."""

    name: str
    children: dict[str, "Folder"] = field(default_factory=dict)
    own: int = 0
    """Images directly in it."""

    @property
    def images(self) -> int:
        return self.own + sum(child.images for child in self.children.values())

    @property
    def holds_folders(self) -> bool:
        """Whether the folder could be a set: folders below it hold images."""
        return any(child.images for child in self.children.values())

    @property
    def last(self) -> str:
        """The folder's own name, without the folders above."""
        return self.name.rpartition("/")[2]

    @property
    def wrapper(self) -> "Folder | None":
        """The only folder in it with images, if that has a name without meaning such as `images/`; else None."""
        child = self.only
        return child if child is not None and child.last.lower() in NO_CLASS else None

    @property
    def only(self) -> "Folder | None":
        """The only folder in it with images, if the folder itself has none; else None."""
        found = [child for child in self.children.values() if child.images]
        return found[0] if len(found) == 1 and not self.own else None

    def below(self) -> Iterator["Folder"]:
        for child in self.children.values():
            yield child
            yield from child.below()

    def __str__(self) -> str:
        return f"{shown(self.name)}/" if self.name else "the source"


@dataclass(frozen=True)
class Layout:
    """Folders whose children are class folders."""

    train: Folder
    evaluation: Folder | None


def tree(found: Walk) -> Folder:
    """The folders of a walk, with the number of files in each."""
    top = Folder("")
    by_name = {"": top}
    for name in found.folders:
        above, _, last = name.rpartition("/")
        by_name[name] = by_name[above].children[last] = Folder(name)
    for file in found.files:
        by_name[file.name.rpartition("/")[0]].own += 1
    return top


def find_layout(found: Walk, evaluation: str | None, preferred: Sequence[str], report: Report) -> Layout:
    """Sets below a folder, or the folder itself as the training set; the report gets what was left out or chosen.

    Raises UsageError or QueeError, with what to do, where a set or a class would have to be guessed.
    """
    source, top = shown(found.folder), tree(found)
    if not top.images:
        there = f"; there are {found.skipped}" if str(found.skipped) else ""
        parquet = "; Parquet files need a column image" if ".parquet" in found.skipped.other else ""
        raise QueeError(f"{source}: no images ({', '.join(IMAGE_SUFFIXES)}){there}{parquet}")
    top = _unwrapped(top, report)
    train = _training_folder(top, source)
    if train is None:
        if evaluation is not None:
            raise UsageError(f"--evaluation {evaluation}: {source} has class folders and no folders of sets")
        _refuse_sets_below_classes(top, source)
        _check_classes(top, found)
        _leave_loose(top, report)
        _merged(top, report)
        return Layout(top, None)
    candidates: dict[str, str | None] = {}
    unusable: dict[str, str] = {}
    for name, child in top.children.items():
        if child is train:
            continue
        if child.holds_folders and not ((inner := child.wrapper) and not inner.holds_folders):
            candidates[name] = role(name) or resembles(name)
        elif child.images:
            unusable[name] = "its images are in no class folders"
        elif role(name) is not None:
            unusable[name] = "no image in it"
    chosen = choose_evaluation(candidates, unusable, evaluation, preferred, source)
    for name, child in top.children.items():
        if child is not train and name != chosen and (child.images or name in unusable):
            why = unusable.get(name, f"--evaluation {shown(name)} takes it")
            report.leave(f"folder {child}", child.images, f"{counted(child.images)}; {why}" if child.images else why)
    if top.own:
        report.leave(f"{counted(top.own)} outside class folders", top.own)
    sets = [_inner(folder) for folder in (train, *([top.children[chosen]] if chosen is not None else []))]
    for folder in sets:
        _check_classes(folder, found)
        _leave_loose(folder, report)
        _merged(folder, report)
    return Layout(sets[0], sets[1] if chosen is not None else None)


def _unwrapped(top: Folder, report: Report) -> Folder:
    """The folder with the sets, if it is the only folder in the source, as in unpacked archives."""
    folder = top
    while (child := folder.only) is not None and role(child.name.rpartition("/")[2]) is None:
        folder = child
    if folder is not top and any(role(name) == "train" and c.holds_folders for name, c in folder.children.items()):
        report.notes.append(f"read from {folder}, the only folder with images")
        return folder
    return top


def _training_folder(top: Folder, source: str) -> Folder | None:
    """The folder of the training set; None where the source has class folders.

    Longer names such as `seg_train` count only if no folder has a plain name and there is a pair such as `seg_test`.
    """
    sets = {name: child for name, child in top.children.items() if child.holds_folders}
    for meaning in (role, resembles):
        trains = [child for name, child in sets.items() if meaning(name) == "train"]
        paired = any(meaning(name) in ("validation", "test") for name in sets)
        if len(trains) > 1 and (meaning is role or paired):
            raise UsageError(f"{source}: {some(map(str, trains))} are training sets by their names; leave one")
        if trains and (meaning is role or paired):
            return trains[0]
    if others := [child for name, child in top.children.items() if role(name) in ("validation", "test")]:
        raise UsageError(
            f"{source}: {some(map(str, others))} but no folder of the training set with class folders, as train/CLASS/; "
            "a class of such a name must be called otherwise"
        )
    flat = [child for name, child in top.children.items() if role(name) == "train" and child.images]
    if flat and not any(child.images for child in top.children.values() if child not in flat):
        raise UsageError(f"{source}: {flat[0]} has images in no class folders; expected train/CLASS/ with images in it")
    return None


def _inner(folder: Folder) -> Folder:
    """The folder itself, or the only folder in it if that is a set of the same name or kind (`train/train/CLASS`) or has a
    name without meaning (`train/images/CLASS`)."""
    if (child := folder.only) is None or not child.holds_folders:
        return folder
    if child is folder.wrapper:
        return child
    name, own = (part.name.rpartition("/")[2] for part in (child, folder))
    same = name.lower() == own.lower() or (role(name) is not None and role(name) == (role(own) or resembles(own)))
    return child if same else folder


def _refuse_sets_below_classes(top: Folder, source: str) -> None:
    for child in top.children.values():
        if sets := [inner for name, inner in child.children.items() if role(name) and inner.images]:
            raise UsageError(
                f"{source}: {sets[0]} is a set within a class by its name; sets come first, as train/CLASS/ and test/CLASS/"
            )


def _check_classes(folder: Folder, found: Walk) -> None:
    """Raises UsageError where the names of the folders in a set show that these are not classes, or may be sets themselves."""
    classes, where = [child for child in folder.children.values() if child.images], shown(found.folder / folder.name)
    listed = some((f"{shown(child.last)}/" for child in classes), 5)
    if len(classes) < 2:
        return
    if plain := [child for child in classes if child.last.lower() in NO_CLASS]:
        raise UsageError(
            f"{where}: {listed} would be classes, and {shown(plain[0].last)}/ is none by its name; a class of such a name must "
            "be called otherwise"
        )
    inner = [child.wrapper or child for child in classes]
    shared = set.intersection(*({c.last for c in child.children.values() if c.images} for child in inner))
    if len(shared) > 1 and not any(child.own for child in inner):
        raise UsageError(
            f"{where}: {listed} all hold {some(map(shown, sorted(shared)), 5)}: which of them are the classes is not known; "
            "give one of these folders, or move the images of a class up into it"
        )


def _leave_loose(folder: Folder, report: Report) -> None:
    """Count images beside the class folders."""
    if folder.own:
        report.leave(f"{counted(folder.own)} outside class folders in {folder}", folder.own)


def _merged(folder: Folder, report: Report) -> None:
    """Report the folders below class folders, which are merged into their class."""
    inner = [child for label in folder.children.values() for child in label.below() if child.own]
    if inner:
        examples = some((f"{child} is of class {class_of(child, folder)}" for child in inner), 3)
        count = f"{len(inner):,} folder{' is' if len(inner) == 1 else 's are'} below class folders"
        report.notes.append(f"merged: {count}: {examples}")


def class_of(folder: Folder, of: Folder) -> str:
    """Name of the class that a folder below the set `of` belongs to."""
    return class_name(PurePosixPath(folder.name).relative_to(of.name).parts[0])
