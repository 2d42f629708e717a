"""Reads under the lock: the lookup by reference, which is the hot path of reading."""

from klerk._waiting cimport ReadHold
from klerk._working cimport id_or_zero

from klerk.errors import NotFound, ReaderClosed


cdef class ReaderBase(ReadHold):
    """Reads under the lock: the lookup by reference, and what the last authorization said.

    Subclasses define ``show(model)``, which decides about a model, and note with `allow` what holds for all
    models of a class.

    Parameters:
        lock: held while the reader is used.
        given: on whose behalf.
        sight: what is read and who sees what.
    """

    def __init__(self, lock, given, sight):
        ReadHold.__init__(self, lock)
        self.given = given
        self.sight = sight
        self.table = sight.table

    @property
    def context(self):
        """On whose behalf, and when."""
        self.begin()
        return self.known_context

    cdef int claim(self) except -1:
        ReadHold.claim(self)
        # What rules said holds for one moment only.
        self.verdicts = None
        return 0

    cdef int begin(self) except -1:
        # Who reads, and what rules say, is only asked once something is read.
        if self.verdicts is None:
            self.known_context, self.verdicts = self.sight.begin(self.given)
        return 0

    def get(self, ref):
        """Return the model that a reference points to.

        Raises:
            NotFound: there is none.
            Denied: it may not be read.
        """
        self.require_open()
        model = self.table.get(id_or_zero(ref))
        if model is None:
            raise NotFound(f"there is no model {ref!r}")
        return self.shown(model)

    cdef int require_open(self) except -1:
        if not self.held:
            hint = "Read inside: with k.read(context) as r: ..."
            raise ReaderClosed("this reader holds no lock", hint=hint)
        return 0

    cdef object shown(self, object model):
        self.begin()
        if self.verdicts.get(type(model)) is True:
            return model
        return self.show(model)

    def require_held(self):
        """Raise `ReaderClosed` unless the lock is held."""
        self.require_open()

    def verdict(self, model_class):
        """Return what holds for every model of a class; None when it has to be asked for each."""
        self.begin()
        return self.verdicts.get(model_class)

    def allow(self, model_class, verdict):
        """Note what holds for every model of a class, as long as this reader holds the lock."""
        self.verdicts[model_class] = verdict

    def models(self, ids):
        """Return the models with these ids, as they may be shown."""
        self.require_open()
        cdef list found = []
        for id in ids:
            model = self.table.get(id)
            # A condition that is not pure may have left a deleted model in a view.
            if model is not None:
                found.append(self.shown(model))
        return found
