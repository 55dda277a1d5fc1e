"""What the program must not lose: behaviours, each with the edit that takes it away and the tests that then fail.

`python -m tests.faults.mutate` makes the edits in a copy of the tree, and tells which of them no test notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Edit:
    """In `proxy/<file>`, replace `old`, which stands there once, by `new`."""

    file: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What the program does, by its row of the fault table and the invariants that it serves."""

    row: int
    invariants: str
    text: str


@dataclass(frozen=True, slots=True)
class Mutation:
    """The program without one behaviour: each of `tests`, functions by name, must fail.

    There is more than one edit where two places guard the same thing.
    """

    behaviour: Behaviour
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


MUTATIONS: Final = (
    Mutation(
        Behaviour(1, "H", "a download that broke is resumed"),
        (Edit("pull/download.py", "if tries >= _TRIES or breaks >= _BREAKS:", "if breaks:"),),
        ("test_a_download_that_is_cut_goes_on_at_the_byte_where_it_stopped",),
    ),
    Mutation(
        Behaviour(1, "W", "a resumption with another range than the one asked for is refused"),
        (Edit("upstream/client.py", "if found is None or found[0] != start:", "if found is None:"),),
        ("test_a_resumption_that_is_answered_with_another_range_is_not_taken",),
    ),
    Mutation(
        Behaviour(2, "W", "an end before the known size is no end"),
        (
            Edit("pull/delivery.py", "if due is not None and at < due:", "if False:"),
            Edit("pull/download.py", "if self.size is None:\n                    self.size = self.at\n", "if True:\n"),
        ),
        ("test_an_early_end_that_happens_once_is_made_good",),
    ),
    Mutation(
        Behaviour(3, "W P", "a blob is what its digest says"),
        (Edit("cache/files.py", "self.hashed == self.size and self.digest.matches(self.hasher)", "True"),),
        (
            "test_a_client_never_completes_with_wrong_bytes",
            "test_wrong_bytes_of_a_small_blob_are_refused_with_a_status",
        ),
    ),
    Mutation(
        Behaviour(3, "W", "the last bytes of a flight are held back until they are verified"),
        (Edit("pull/flight.py", "reach if inner else min(reach, size - _HELD_BACK)", "reach"),),
        ("test_a_client_never_completes_with_wrong_bytes", "test_an_open_range_of_wrong_bytes_never_ends"),
    ),
    Mutation(
        Behaviour(3, "P", "a manifest is what its digest says"),
        (Edit("oci/manifest.py", "if digest is not None and actual != digest:", "if False:"),),
        ("test_the_manifest_of_another_image_is_refused_and_not_kept",),
    ),
    Mutation(
        Behaviour(3, "A", "what turned out to be wrong is deleted"),
        (Edit("cache/files.py", "incoming.path.unlink(missing_ok=True)", "pass"),),
        ("test_wrong_bytes_of_a_small_blob_are_refused_with_a_status",),
    ),
    Mutation(
        Behaviour(4, "P B", "a blob of another size than the descriptor's is refused before the status line"),
        (Edit("pull/download.py", "and stream.size != self.size:", "and False:"),),
        ("test_a_page_of_html_is_refused_by_its_size_alone",),
    ),
    Mutation(
        Behaviour(5, "A H", "bytes beyond the size end the download"),
        (Edit("pull/download.py", "if self.size is not None and position > self.size:", "if False:"),),
        ("test_an_upstream_that_never_stops_sending_is_hung_up_on",),
    ),
    Mutation(
        Behaviour(6, "W P", "bodies are taken as they come"),
        (Edit("upstream/transport/route.py", "auto_decompress=False", "auto_decompress=True"),),
        ("test_a_content_coding_that_upstream_claims_is_never_undone",),
    ),
    Mutation(
        Behaviour(7, "K H", "a body ends at its length"),
        (Edit("pull/download.py", "return  # without waiting", "pass  # without waiting"),),
        ("test_a_body_is_whole_at_its_length_though_the_connection_stays_open",),
    ),
    Mutation(
        Behaviour(8, "H", "upstream's next byte has a deadline"),
        (Edit("upstream/transport/route.py", 'sock_read=timeout["read"]', "sock_read=None"),),
        ("test_an_upstream_that_stalls_is_left_and_the_download_goes_on",),
    ),
    Mutation(
        Behaviour(9, "H B", "a 429 is waited for"),
        (Edit("upstream/breaker.py", "self._paused[noun] = max(", "max("),),
        ("test_a_429_is_not_repeated_while_it_is_to_be_waited_for",),
    ),
    Mutation(
        Behaviour(10, "B", "a tag outlives upstream's failures"),
        (Edit("pull/freshness.py", "return abs(now - checked) < self.ttl + self.stale_for", "return False"),),
        ("test_a_tag_outlives_an_upstream_that_fails",),
    ),
    Mutation(
        Behaviour(10, "H B", "a host that fails is left alone"),
        (Edit("upstream/breaker.py", "not self._opening and self._failures >= FAILURES_TO_OPEN", "False"),),
        ("test_a_host_that_fails_is_left_alone_and_then_probed_once",),
    ),
    Mutation(
        Behaviour(11, "S", "a refusal of upstream is not taken for an outage"),
        (Edit("upstream/failures.py", "if reply.status in (401, 403):", "if False:"),),
        ("test_a_refusal_is_not_masked_by_what_was_there",),
    ),
    Mutation(
        Behaviour(12, "S", "credentials go to known token servers only"),
        (Edit("upstream/guard.py", "not self._trusted(target):\n            raise", "False:\n            raise"),),
        ("test_a_realm_elsewhere_is_refused_without_a_connection",),
    ),
    Mutation(
        Behaviour(13, "S", "credentials do not follow a redirect to another host"),
        (Edit("upstream/walk.py", "authorization = {}  # for good", "pass  # for good"),),
        ("test_credentials_stay_with_the_upstream_that_they_are_for", "test_credentials_never_cross_origins"),
    ),
    Mutation(
        Behaviour(13, "S", "DNS cannot lead where a redirect may not"),
        (Edit("upstream/guard.py", "self._check(name, reach)", "pass"),),
        ("test_a_name_that_dns_leads_inside_makes_no_connection",),
    ),
    Mutation(
        Behaviour(14, "K H", "an expired URL is made anew"),
        (Edit("upstream/walk.py", 'if method == "GET" and reply.target != target', "if False"),),
        ("test_a_presigned_url_that_was_made_expired_is_made_anew_once",),
    ),
    Mutation(
        Behaviour(15, "K", "a flight outlives the client that began it"),
        (
            Edit(
                "pull/flight.py",
                "self._holders -= 1\n",
                "self._holders -= 1\n        _ = self._holders or self.verified or self._task.cancel()\n",
            ),
        ),
        ("test_a_client_that_leaves_does_not_take_the_flight_along",),
    ),
    Mutation(
        Behaviour(16, "H", "a client that takes nothing is let go"),
        (Edit("server/watchdog.py", "return now - since >= timeout", "return False"),),
        ("test_a_stalled_client_is_let_go_and_a_slow_one_is_not",),
    ),
    Mutation(
        Behaviour(17, "A", "clients of one cold blob share a flight"),
        (
            Edit("pull/blobs.py", "flight = self._flights.get(digest)\n", "flight: Flight | None = None\n"),
            Edit("pull/blobs.py", "del self._flights[flight.digest]", "self._flights.pop(flight.digest, None)"),
        ),
        ("test_a_hundred_clients_of_a_cold_blob_cost_upstream_one_get",),
    ),
    Mutation(
        Behaviour(17, "H", "a failure reaches every follower"),
        (Edit("pull/flight.py", "elif self._failure is not None:", "elif isinstance(self._failure, DiskFailure):"),),
        ("test_a_failure_is_told_to_all_hundred",),
    ),
    Mutation(
        Behaviour(18, "H", "an inner range does not wait for the blob to be verified"),
        (Edit("pull/flight.py", "inner = stop < size or self.verified", "inner = self.verified"),),
        ("test_an_open_range_ends_only_after_verification",),
    ),
    Mutation(
        Behaviour(18, "W", "the last byte of a range is part of it"),
        (Edit("oci/ranges.py", "min(int(last) + 1, size)", "min(int(last), size)"),),
        ("test_the_ranges_of_the_specification_are_exact", "test_a_range_is_exactly_the_bytes_that_rfc_9110_says"),
    ),
    Mutation(
        Behaviour(19, "W", "a range beyond the end is refused"),
        (Edit("oci/ranges.py", "if start >= size or stop <= start:", "if stop < 0:"),),
        ("test_a_range_that_cannot_be_is_416_with_the_size",),
    ),
    Mutation(
        Behaviour(20, "A", "HEAD downloads nothing"),
        (Edit("edge/handlers.py", "if request.head or unmodified:", "if unmodified:"),),
        ("test_head_of_a_cold_blob_downloads_nothing",),
    ),
    Mutation(
        Behaviour(22, "A", "nothing that was arriving outlives a restart"),
        (
            Edit(
                "cache/files.py", "in self._incoming.iterdir():\n            path.unlink()", "in ():\n            pass"
            ),
        ),
        (
            "test_nothing_that_was_arriving_is_there_after_a_restart",
            "test_a_kill_in_the_middle_of_a_download_leaves_nothing_behind_and_the_next_pull_is_right",
        ),
    ),
    Mutation(
        Behaviour(23, "K", "a whole file that the ledger does not know is adopted"),
        (Edit("cache/sweep.py", "store.adopt(entry, used=0.0)", "pass"),),
        ("test_a_kill_between_the_rename_and_the_ledger_loses_nothing",),
    ),
    Mutation(
        Behaviour(23, "P", "a file is adopted only if it hashes to its name"),
        (Edit("cache/sweep.py", "if intact:", "if True:"),),
        ("test_a_whole_file_that_the_ledger_does_not_know_is_hashed_and_adopted",),
    ),
    Mutation(
        Behaviour(24, "W P", "a file that has changed is hashed before it is served"),
        (Edit("cache/blobs.py", "elif found.changed == entry.changed or", "elif True or"),),
        ("test_a_damaged_blob_is_not_served_but_fetched_again",),
    ),
    Mutation(
        Behaviour(24, "W P", "what a file hashes to is compared with its name"),
        (Edit("oci/digest.py", "return hasher.hexdigest() == self.hex", "return True"),),
        ("test_a_flipped_bit_that_leaves_the_time_alone_is_found_by_hashing",),
    ),
    Mutation(
        Behaviour(24, "B", "a file that cannot be read goes"),
        (Edit("edge/respond.py", "await self._blob.failed(error)", "pass"),),
        ("test_a_blob_whose_sectors_cannot_be_read_is_fetched_again",),
    ),
    Mutation(
        Behaviour(25, "B", "a client of a blob whose disk gave out has the rest from upstream"),
        (
            Edit(
                "pull/blob.py",
                "        except DiskFailure:\n            async with",
                "        except ZeroDivisionError:\n            async with",
            ),
        ),
        ("test_a_disk_that_fills_while_a_blob_arrives_costs_no_client_a_byte",),
    ),
    Mutation(
        Behaviour(25, "A", "bytes that were promised to what never came are given back"),
        (Edit("cache/room.py", "self._reserved -= incoming.size", "pass"),),
        ("test_what_is_discarded_while_it_is_read_can_still_be_read",),
    ),
    Mutation(
        Behaviour(26, "B", "a directory that cannot be used leaves a program that passes through"),
        (
            Edit(
                "cache/disk.py",
                "OSError as error:\n            off = f",
                "ZeroDivisionError as error:\n            off = f",
            ),
        ),
        ("test_a_directory_that_is_read_only_at_start_leaves_a_program_that_passes_everything_through",),
    ),
    Mutation(
        Behaviour(27, "A", "nothing is evicted for what has no place"),
        (
            Edit("cache/room.py", "if size <= self.max_size else", "if True else"),
            Edit("cache/room.py", "if lacking > self._index.bytes - self._index.held_bytes:", "if False:"),
        ),
        ("test_a_blob_larger_than_the_budget_is_streamed_and_nothing_is_evicted_for_it",),
    ),
    Mutation(
        Behaviour(27, "W", "what passes the disk is verified too"),
        (Edit("pull/relay.py", "if digest.matches(hasher):", "if True:"),),
        ("test_wrong_bytes_are_not_passed_through_to_their_end_either",),
    ),
    Mutation(
        Behaviour(28, "W", "whoever reads what is evicted reads it to its end"),
        (
            Edit(
                "cache/files.py",
                "self._path(digest).unlink(missing_ok=True)",
                "self._path(digest).write_bytes(b'')\n        self._path(digest).unlink()",
            ),
        ),
        ("test_a_blob_that_is_evicted_while_a_client_reads_it_is_read_to_its_end",),
    ),
    Mutation(
        Behaviour(29, "K B", "a ledger that cannot be read is begun anew"),
        (Edit("cache/ledger.py", "self.begin_anew(error)\n            return into(())", "raise"),),
        ("test_a_ledger_that_is_damaged_at_start_is_moved_aside_and_rebuilt_from_the_files",),
    ),
    Mutation(
        Behaviour(29, "K", "what could not be written is written later"),
        (Edit("cache/journal.py", "self._dirty = batch | self._dirty", "pass"),),
        (
            "test_a_locked_ledger_holds_up_no_pull_and_is_written_when_the_lock_is_gone",
            "test_what_the_disk_refused_is_written_later_and_the_latest_word_counts",
        ),
    ),
    Mutation(
        Behaviour(30, "A", "a directory has one process"),
        (Edit("cache/lock.py", "fcntl.LOCK_EX | fcntl.LOCK_NB", "fcntl.LOCK_SH | fcntl.LOCK_NB"),),
        ("test_a_second_process_on_the_same_directory_is_refused_with_a_plain_message",),
    ),
    Mutation(
        Behaviour(31, "K", "a tag that was confirmed in the future is confirmed again"),
        (Edit("pull/freshness.py", "return 0 <= now - checked < self.ttl", "return now - checked < self.ttl"),),
        ("test_a_tag_that_was_confirmed_under_another_clock_is_confirmed_again_once",),
    ),
    Mutation(
        Behaviour(32, "K", "what is noted is written down at the end"),
        (Edit("cache/journal.py", "None:\n        await self.flush()\n", "None:\n"),),
        ("test_what_was_pulled_just_before_the_end_is_written_down",),
    ),
    Mutation(
        Behaviour(33, "H", "no more of a manifest is read than one may have"),
        (
            Edit("upstream/transport/reply.py", "if (self.length or 0) > limit:", "if False:"),
            Edit("upstream/transport/reply.py", "if len(body) > limit:", "if False:"),
        ),
        ("test_of_a_manifest_of_64_mebibytes_only_a_bounded_part_is_read",),
    ),
    Mutation(
        Behaviour(34, "H", "nesting that breaks the reader is contained"),
        (Edit("oci/manifest.py", "except (ValueError, RecursionError):", "except ValueError:"),),
        ("test_json_that_is_made_to_break_its_reader_is_refused",),
    ),
    Mutation(
        Behaviour(35, "P", "an index that is an image as well is refused"),
        (Edit("oci/manifest.py", 'if "manifests" in document and any(', "if 0 and any("),),
        ("test_a_document_that_is_an_index_and_an_image_at_once_is_refused",),
    ),
    Mutation(
        Behaviour(36, "S W", "a manifest passes byte for byte"),
        (Edit("oci/manifest.py", "body=body,", "body=json.dumps(document).encode(),"),),
        ("test_the_urls_of_a_foreign_layer_are_never_fetched_and_pass_unchanged",),
    ),
    Mutation(
        Behaviour(37, "S P", "a digest is made of hexadecimal digits"),
        (Edit("oci/digest.py", " or not _HEX.match(encoded)", ""),),
        ("test_a_digest_is_accepted_exactly_when_it_can_be_verified",),
    ),
    Mutation(
        Behaviour(37, "S", "an encoded slash is refused"),
        (Edit("edge/routes.py", 'if "%2f" in raw_path.lower():', "if False:"),),
        ("test_what_is_refused_is_refused_with_a_reason",),
    ),
    Mutation(
        Behaviour(38, "S", "a blob on disk is not for every repository"),
        (
            Edit(
                "cache/catalog.py",
                "size = holdings.sizes.get(digest) if holdings and digest not in holdings.children else None",
                "size = next((each.sizes[digest] for each in self._holdings.values() if digest in each.sizes), None)",
            ),
        ),
        ("test_a_private_blob_is_not_given_out_under_the_name_of_another_repository",),
    ),
    Mutation(
        Behaviour(38, "S", "what only an index names is no blob of its repository"),
        (Edit("cache/holdings.py", "            elif index:", "            elif not sizes:"),),
        ("test_naming_a_private_blob_where_no_registry_checks_it_is_no_permission",),
    ),
    Mutation(
        Behaviour(38, "S", "a flight is not for every repository"),
        (Edit("pull/blobs.py", "if flight is None else flight.repository != repository", ""),),
        ("test_a_private_blob_in_flight_cannot_be_joined_through_another_repository",),
    ),
    Mutation(
        Behaviour(39, "S", "an upstream that is not configured is never asked"),
        (Edit("edge/routes.py", "if found is None:\n", "if found is None:\n            return name\n"),),
        ("test_what_is_refused_is_refused_with_a_reason",),
    ),
    Mutation(
        Behaviour(40, "H", "a page has a thousand names at most"),
        (
            Edit(
                "edge/handlers.py", "_PAGE if len(text) > len(str(_PAGE)) else min(int(text), _PAGE)", "int(text[:9])"
            ),
            Edit("upstream/listing.py", "min(max(n, 0), MAX_TAGS)", "max(n, 0)"),
        ),
        ("test_a_page_is_never_larger_than_a_thousand_names_whatever_the_client_asks",),
    ),
    Mutation(
        Behaviour(42, "B K", "a call that was throttled is made again"),
        (Edit("ecr/calls.py", "await caller(Passing, once)", "await once()"),),
        ("test_what_passes_is_tried_again_and_each_attempt_is_observed",),
    ),
    Mutation(
        Behaviour(42, "B", "an ECR that fails is left alone"),
        (Edit("pull/near.py", "if self._failures >= FAILURES_TO_REST:", "if False:"),),
        ("test_an_ecr_that_does_not_answer_is_passed_over_after_the_deadline_and_then_left_alone",),
    ),
    Mutation(
        Behaviour(43, "K", "a tag that an immutable repository has costs the tag and not the image"),
        (
            Edit(
                "ecr/push.py",
                "except TagTaken:\n                job.clash(tag)",
                "except ZeroDivisionError:\n                job.clash(tag)",
            ),
        ),
        (
            "test_a_tag_that_an_immutable_repository_has_stays_and_the_image_is_kept_by_its_digest",
            "test_a_tag_that_an_immutable_repository_has_for_another_image_stays_and_the_new_one_is_kept_by_its_digest",
        ),
    ),
    Mutation(
        Behaviour(44, "B", "a repository that somebody else has just created is fine"),
        (Edit("ecr/calls.py", '"RepositoryAlreadyExistsException",', ""),),
        ("test_two_pushers_that_race_are_both_content",),
    ),
    Mutation(
        Behaviour(45, "K", "a queue goes on where it was killed"),
        (Edit("ecr/queue.py", "job.checked)):\n            self._enter(job)", "job.checked)):\n            pass"),),
        ("test_a_queue_that_was_killed_goes_on_with_all_that_was_not_done",),
    ),
    Mutation(
        Behaviour(45, "P", "an index comes after its images"),
        (Edit("ecr/push.py", "await self._manifest(child.digest, spare=spare)", "pass"),),
        ("test_an_index_comes_after_its_images_and_they_after_their_blobs",),
    ),
    Mutation(
        Behaviour(46, "B", "credentials that have expired are renewed"),
        (Edit("ecr/aws.py", "if code not in _CREDENTIALS and not", "if True or not"),),
        ("test_expired_credentials_are_renewed_once_for_all_who_meet_them",),
    ),
    Mutation(
        Behaviour(47, "W P", "wrong bytes of ECR are replaced by upstream's"),
        (Edit("pull/delivery.py", "return bool(misled)", "return False"),),
        ("test_wrong_bytes_from_ecr_are_replaced_by_the_right_ones_within_the_same_request",),
    ),
    Mutation(
        Behaviour(47, "W P", "who gave wrong bytes is not asked again, where no disk holds them back either"),
        (Edit("pull/delivery.py", "self._givers.remove(giver)", "pass"),),
        ("test_wrong_bytes_past_a_full_disk_are_replaced_too",),
    ),
    Mutation(
        Behaviour(48, "B", "what ECR rejects is not tried for ever"),
        (Edit("ecr/worker.py", "self._reject(job, str(error))", "self._failed(job, str(error))"),),
        ("test_what_ecr_rejects_is_shown_with_its_reason_and_tried_again_on_demand_only",),
    ),
)
