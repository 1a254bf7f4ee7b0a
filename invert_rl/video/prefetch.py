"""Decoding ahead: worker processes decode the clips of the next round while the model works on this one."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue

import torch

from data_prep.errors import TIMEOUT, VideoError
from data_prep.workers import Failure, Worker, WorkerStartError, call_apart, forget_apart
from invert_rl.video.clip import Clip
from invert_rl.video.load import GRACE_SECONDS, outlived
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore

logger = logging.getLogger(__name__)


class Prefetcher:
    """`FrameStore.clip` by worker processes, ahead of time: say what is wanted next, then ask for it.

    Nothing but the waiting time depends on it: frames and errors are those of the store. A clip that takes longer than
    ``limit`` seconds is a `VideoError` and its worker is replaced; so is one whose worker died twice. Where no worker
    can be started clips are decoded in this process. Finished clips that wait to be asked for take at most the store's
    ``memory_bytes`` and one clip for each worker. Not for several threads.

    Args:
        store: what decodes; each worker gets a copy that keeps nothing in memory.
        workers: how many processes; 0 decodes when asked, in the one helper process that this one has for it (with a
            memory of its own as large as the store's), or, where the store says so, in a thread of this process.
        limit: seconds per clip; default: twice the store's timeout (a part may need the whole and itself) and a minute,
            none where the store has none.
    """

    def __init__(self, store: FrameStore, workers: int, limit: float | None = None) -> None:
        self.store = store
        self.workers = workers
        self.limit = limit
        if limit is None and store.timeout is not None:
            self.limit = 2 * store.timeout + GRACE_SECONDS
        self.asked = 0
        """Clips that were asked for so far."""
        self.waited = 0
        """How many of these were not there yet."""
        self._wanted: dict[VideoRef, None] = {}
        self._running: set[VideoRef] = set()
        self._ready: dict[VideoRef, Clip | Exception] = {}
        self._urgent: VideoRef | None = None
        self._changed = threading.Condition()
        self._team: list[tuple[Worker, threading.Thread]] = []
        self._apart = functools.partial(decode, copy.copy(store))

    def want(self, refs: Iterable[VideoRef]) -> None:
        """Decode these, in their order, and forget what was wanted before and has not been asked for."""
        if not self.workers:
            return
        wanted = dict.fromkeys(ref for ref in refs if not self._remembered(ref))
        with self._changed:
            self._wanted = wanted
            self._ready = {ref: outcome for ref, outcome in self._ready.items() if ref in wanted}
            self._start()
            self._changed.notify_all()

    def clip(self, ref: VideoRef) -> Clip:
        """The frames of ``ref``, waiting for them if need be; raises `VideoError` as `FrameStore.clip` does."""
        self.asked += 1
        remembered = self._remembered(ref)
        if remembered:
            return self.store.clip(ref)
        self.store.check_file(ref.path)  # here, as the worker that decodes it now may never have seen it before
        if not self.workers:
            self.waited += 1
            outcome = self._watched(ref) if self.store.in_process else self._decoded(self._helper, ref)
        else:
            outcome = self._awaited(ref)
        if isinstance(outcome, WorkerStartError):
            logger.warning("%s; decoding in the main process", outcome)
            outcome = self._watched(ref)
        if isinstance(outcome, Exception):
            raise outcome
        self.store.remember(ref, outcome)
        return outcome

    def _awaited(self, ref: VideoRef) -> Clip | Exception:
        """What the team of workers makes of ``ref``, first of all that is wanted."""
        with self._changed:
            self.waited += ref not in self._ready
            self._start()
            self._urgent = ref
            self._changed.notify_all()
            while ref not in self._ready:
                self._changed.wait()
            self._urgent = None
            outcome = self._ready.pop(ref)
            self._wanted.pop(ref, None)
            self._changed.notify_all()  # there is room for another
        return outcome

    def _watched(self, ref: VideoRef) -> Clip | Exception:
        """Decode in a thread of this process, which is left behind where it hangs."""
        outcome: SimpleQueue[Clip | Exception] = SimpleQueue()

        def decode_here() -> None:
            try:
                outcome.put(self.store.clip(ref))
            except Exception as error:  # raised where the clip is asked for
                outcome.put(error)

        threading.Thread(target=decode_here, name="decode", daemon=True).start()
        try:
            return outcome.get(timeout=self.limit)
        except Empty:
            return VideoError(ref.path, f"decoding: not finished after the limit of {self.limit:g} s", TIMEOUT)

    def _helper(self, ref: VideoRef) -> Clip | Failure:
        return call_apart(self._apart, ref, self.limit)

    def close(self) -> None:
        """End the workers; they start again when something is wanted."""
        forget_apart(self._apart)
        with self._changed:
            team, self._team = self._team, []
            self._wanted, self._ready = {}, {}
            for worker, _ in team:
                worker.stopped = True
            self._changed.notify_all()
        for worker, _ in team:
            worker.stop()
        for _, thread in team:
            thread.join()

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _remembered(self, ref: VideoRef) -> bool:
        try:
            return self.store.remembered(ref) is not None
        except VideoError:
            return True  # a window outside of its video: asking will say so

    def _start(self) -> None:
        if self._team:
            return
        store = copy.copy(self.store)
        store.memory_bytes = 0
        for _ in range(self.workers):
            worker = Worker(functools.partial(decode, store))
            # One thread per process waits for it, so each has its own time limit.
            thread = threading.Thread(target=self._feed, args=(worker,), name="prefetch", daemon=True)
            self._team.append((worker, thread))
        for _, thread in self._team:
            thread.start()

    def _feed(self, worker: Worker) -> None:
        """The life of a thread: hand the next wanted clip to its worker process and keep what comes back."""
        while True:
            with self._changed:
                ref = self._next()
                while ref is None and not worker.stopped:
                    self._changed.wait()
                    ref = self._next()
                if ref is None or worker.stopped:
                    return
                self._running.add(ref)
            outcome = self._decoded(lambda wanted: worker.call(wanted, self.limit), ref)
            with self._changed:
                self._running.discard(ref)
                if ref in self._wanted or ref == self._urgent:
                    self._ready[ref] = outcome
                self._changed.notify_all()

    def _next(self) -> VideoRef | None:
        """What to decode now: what is waited for, else what is wanted while there is room."""
        busy = self._running | self._ready.keys()
        if self._urgent is not None and self._urgent not in busy:
            return self._urgent
        waiting = sum(clip.frames.nbytes for clip in self._ready.values() if isinstance(clip, Clip))
        if waiting and waiting >= self.store.memory_bytes:
            return None
        return next((ref for ref in self._wanted if ref not in busy), None)

    def _decoded(self, call: Callable[[VideoRef], Clip | Failure], ref: VideoRef) -> Clip | Exception:
        try:
            return outlived(lambda: call(ref), ref.path)
        except Exception as error:  # raised where the clip is asked for
            return error


def decode(store: FrameStore, ref: VideoRef) -> Clip:
    """Called in a worker process: the store's clip."""
    torch.set_num_threads(1)
    return store.clip(ref)
