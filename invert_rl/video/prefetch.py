"""Decoding ahead: worker processes decode the clips of the next round while the model works on this one."""

from __future__ import annotations

import copy
import functools
import logging
import threading
from collections.abc import Iterable
from queue import Empty, SimpleQueue
from typing import Any

import torch

from data_prep.workers import Failure, Worker, WorkerStartError
from invert_rl.video.clip import Clip
from invert_rl.video.errors import VideoError
from invert_rl.video.ref import VideoRef
from invert_rl.video.store import FrameStore

logger = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""What a worker may take beyond the store's own time limits before it is killed: start, reading, hashing."""
TRIES = 2
"""How often a clip is tried whose worker dies: once more, as it may have been killed for another reason."""


class Prefetcher:
    """`FrameStore.clip` by worker processes, ahead of time: say what is wanted next, then ask for it.

    Nothing but the waiting time depends on it: frames and errors are those of the store. A clip that takes longer than
    ``limit`` seconds is a `VideoError` and its worker is replaced; so is one whose worker died twice. Where no worker
    can be started clips are decoded here. Finished clips that wait to be asked for take at most the store's
    ``memory_bytes`` and one clip for each worker. Not for several threads.

    Args:
        store: what decodes; each worker gets a copy that keeps nothing in memory.
        workers: how many processes; 0 decodes in this process when asked, in a thread that is left behind if it hangs.
        limit: seconds per clip; default: twice the store's timeout (a part may need the whole and itself) and a minute.
    """

    def __init__(self, store: FrameStore, workers: int, limit: float | None = None) -> None:
        self.store = store
        self.workers = workers
        self.limit = limit or 2 * (store.timeout or 300.0) + GRACE_SECONDS
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
        if not self.workers:
            self.waited += 1
            return self._watched(ref)
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
        if isinstance(outcome, WorkerStartError):
            logger.warning("%s; decoding in the main process", outcome)
            return self._watched(ref)
        if isinstance(outcome, Exception):
            raise outcome
        self.store.remember(ref, outcome)
        return outcome

    def _watched(self, ref: VideoRef) -> Clip:
        """Decode in a thread of this process, which is left behind where it hangs."""
        outcome: SimpleQueue[Clip | Exception] = SimpleQueue()

        def decode_here() -> None:
            try:
                outcome.put(self.store.clip(ref))
            except Exception as error:  # raised where the clip is asked for
                outcome.put(error)

        threading.Thread(target=decode_here, name="decode", daemon=True).start()
        try:
            found = outcome.get(timeout=self.limit)
        except Empty:
            raise VideoError(ref.path, f"decoding: not finished after the limit of {self.limit:g} s") from None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the workers; they start again when something is wanted."""
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
            outcome = self._decoded(worker, ref)
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

    def _decoded(self, worker: Worker, ref: VideoRef) -> Clip | Exception:
        reason = ""
        for _ in range(TRIES):
            try:
                answer = worker.call(ref, self.limit)
            except Exception as error:  # raised where the clip is asked for
                return error
            if not isinstance(answer, Failure):
                return answer if isinstance(answer, VideoError) else Clip(torch.from_numpy(answer[0]), *answer[1:])
            reason = answer.reason
            if answer.timed_out:
                break
            if not worker.stopped:
                logger.warning("%s: a worker process that decoded it is gone: %s", ref.path, reason)
        return VideoError(ref.path, f"decoding: {reason}")


def decode(store: FrameStore, ref: VideoRef) -> tuple[Any, ...] | VideoError:
    """Called in a worker: the fields of a `Clip`, its frames as an array (tensors would travel as shared memory)."""
    torch.set_num_threads(1)
    try:
        clip = store.clip(ref)
    except VideoError as error:
        return error
    return clip.frames.numpy(), clip.timestamps, clip.start, clip.end, clip.path
