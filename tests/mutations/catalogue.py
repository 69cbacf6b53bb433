"""Which mechanism stands behind each guarantee, how it is taken out, and which tests must then fail.

A mutation replaces one piece of source, found exactly once in its file, by another. It is the smallest change that
removes the mechanism and leaves the code running: what fails is a test of the guarantee, not an import.
"""

from __future__ import annotations

from dataclasses import dataclass

AUDIT = "services/allocator/database/audit.py"
ADMISSION = "services/kit/admission.py"
CORE = "rollout_budget/ledger/core.py"
LEDGER = "services/allocator/database/ledger.py"
ACCOUNTS = "services/allocator/database/accounts.py"
ON_SQL = "tests/allocator/test_ledger_on_sql.py"
GRANTS = "tests/conformance/test_grants.py"
SETTLEMENTS = "tests/conformance/test_settlements.py"
MACHINE = "tests/ledger/test_machine.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mechanism taken out.

    Attributes:
        guarantee: number of the guarantee, as `G01`.
        file: source file, from the root of the project.
        what: what is taken out, in a few words, for the table.
        old, new: the piece of source and what stands there instead.
        tests: arguments for pytest: files, and `-k` expressions.
    """

    guarantee: str
    file: str
    what: str
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, source: str) -> str:
        """Return the source with the mechanism taken out.

        Raises:
            ValueError: the piece is not there exactly once: the catalogue has fallen behind the code.
        """
        if source.count(self.old) != 1:
            raise ValueError(
                f"{self.guarantee}: {self.what}: its source stands {source.count(self.old)} times in {self.file}"
            )
        return source.replace(self.old, self.new)


CATALOGUE: tuple[Mutation, ...] = (
    Mutation(
        "G01",
        ACCOUNTS,
        "the limit in the UPDATE that grants",
        "or_(cap.is_(None), charged + bindparam(needed) <= cap)",
        "or_(cap.is_(None), bindparam(needed) <= cap)",
        (ON_SQL, GRANTS, "-k", "g01"),
    ),
    Mutation(
        "G01",
        CORE,
        "the share of what is left, in the rule",
        "    if fresh and left is not None and left < wanted:",
        "    if fresh and left is not None and left < 0:",
        (GRANTS, "-k", "g01 and memory"),
    ),
    Mutation(
        "G02",
        "services/allocator/migrations/versions/0001_the_first_schema.py",
        "the triggers that keep entries as they are",
        "BEGIN SELECT RAISE(ABORT, 'entries are append-only'); END",
        "BEGIN SELECT 1; END",
        (ON_SQL, "-k", "g02"),
    ),
    Mutation(
        "G02",
        AUDIT,
        "what the audit does with a counter that differs",
        "values(suspended=bool(wrong[name, run, span]))",
        "values(suspended=False)",
        (ON_SQL, "-k", "g02"),
    ),
    Mutation(
        "G03",
        CORE,
        "the look at earlier answers",
        "    hold = books.holds.get((account.team, ask.id))\n    if hold is None:\n        return False\n    require_same",
        "    hold = None\n    if hold is None:\n        return False\n    require_same",
        (GRANTS, "-k", "g03"),
    ),
    Mutation(
        "G04",
        "rollout_budget/ledger/asks.py",
        "the comparison with the first body",
        "if (first.account, first.asked, first.step) != (account, ask.rollouts, ask.step):",
        "if first.account.team != account.team:",
        (GRANTS, "-k", "g04"),
    ),
    Mutation(
        "G04",
        "rollout_budget/engine/opening.py",
        "the fingerprint of a group",
        "if record.fingerprint != prints[key]:",
        "if not record.fingerprint:",
        ("tests/conformance/test_requests.py", "-k", "g04 and local"),
    ),
    Mutation(
        "G05",
        LEDGER,
        "the rows of refusals",
        "        await self._insert(reservations, rows)\n",
        "        kept = [row for row in rows if row['rollouts']]\n"
        "        if kept:\n            await self._insert(reservations, kept)\n",
        (GRANTS, "-k", "g05"),
    ),
    Mutation(
        "G06",
        CORE,
        "the state of what is settled",
        '        if held.state != "reserved":\n            continue\n',
        "",
        (SETTLEMENTS, "-k", "g06"),
    ),
    Mutation(
        "G07",
        LEDGER,
        "the end of a lease",
        'reservations.c.state == "reserved", reservations.c.expires_s <= moment)',
        'reservations.c.state == "reserved", reservations.c.expires_s <= moment + 100)',
        (SETTLEMENTS, "-k", "g07 and sqlite"),
    ),
    Mutation(
        "G07",
        LEDGER,
        "expiry before a refusal",
        "        await self._expire(account.team, gate.moment)\n        self._bounds",
        "        self._bounds",
        (SETTLEMENTS, "-k", "g07 and sqlite"),
    ),
    Mutation(
        "G08",
        ACCOUNTS,
        "the lock that settlement and expiry take first",
        "    .with_for_update()\n",
        "",
        (ON_SQL, "-k", "g08"),
    ),
    Mutation(
        "G09",
        "services/kit/in_place.py",
        "the transaction around a request",
        '        dbapi_connection.execute("BEGIN IMMEDIATE")\n',
        "        return\n",
        (GRANTS, "-k", "g09 and sqlite"),
    ),
    Mutation(
        "G10",
        "rollout_budget/client/_http.py",
        "the second attempt",
        "                if wait_s is None:",
        "                if wait_s is None or attempts:",
        ("tests/client/test_lost_answers.py", "tests/faults", "-k", "g10"),
    ),
    Mutation(
        "G11",
        LEDGER,
        "the database's clock under a lease",
        "moment + lease_s if one.rollouts else None",
        "time.time() + lease_s if one.rollouts else None",
        (SETTLEMENTS, "-k", "g11"),
    ),
    Mutation(
        "G12",
        "services/kit/database.py",
        "the bounds of a lock and a statement",
        "-c lock_timeout={LOCK_TIMEOUT_MS} -c statement_timeout={STATEMENT_TIMEOUT_MS} {ALWAYS}",
        "{ALWAYS}",
        (ON_SQL, "-k", "g12_a_wait"),
    ),
    Mutation(
        "G13",
        ADMISSION,
        "the turn of the team that was given least",
        "return min(able, key=lambda name: self._line[name].given, default=None)",
        "return max(able, key=lambda name: self._line[name].given, default=None)",
        ("tests/load/test_admission.py", "-k", "g13"),
    ),
    Mutation(
        "G13",
        ADMISSION,
        "the rate of a team",
        "        if wait_s > 0.0:\n            return Limited(wait_s), []\n",
        "",
        ("tests/allocator/test_edge.py", "-k", "g13"),
    ),
    Mutation(
        "G14",
        "services/allocator/database/store.py",
        "the team in the question for a run",
        'and_(runs.c.team == bindparam("in_team"), runs.c.run == bindparam("in_run"))',
        'and_(runs.c.run == bindparam("in_run"))',
        ("tests/conformance/test_stores.py", "-k", "g14 and sqlite"),
    ),
    Mutation(
        "G14",
        "services/allocator/database/wall.py",
        "the role that sees one team",
        "                await driver.execute(_ENTER, (team,))\n",
        "                pass\n",
        ("tests/allocator/test_second_wall.py",),
    ),
    Mutation(
        "G15",
        "services/kit/keys.py",
        "the keyed hash",
        "return hmac.new(pepper.encode(), token.encode(), hashlib.sha256).hexdigest()",
        "return token if len(token) <= 64 else hmac.new(pepper.encode(), token.encode(), hashlib.sha256).hexdigest()",
        ("tests/allocator/test_access.py", "-k", "g15"),
    ),
    Mutation(
        "G16",
        "services/kit/bodies.py",
        "the count of bytes that come",
        "            if read > self._most:",
        "            if read < 0:",
        ("tests/allocator/test_bad_input.py", "-k", "g16_a_body_over"),
    ),
    Mutation(
        "G17",
        ADMISSION,
        "the bound of the line",
        "shed = [self._turn_away()] if self.waiting > self.limits.queue else []",
        "shed = []",
        ("tests/allocator/test_edge.py", "-k", "g17"),
    ),
    Mutation(
        "G18",
        "services/allocator/metrics.py",
        "the cap of labels",
        "len(self._known) >= self._most and not",
        "len(self._known) < 0 and not",
        ("tests/allocator/test_metrics.py", "-k", "g18"),
    ),
    Mutation(
        "G19",
        "services/allocator/migrations/versions/0003_ledger.py",
        "what adds up the entries of old code",
        "AFTER INSERT ON entries WHEN NEW.policy IS NULL BEGIN",
        "AFTER INSERT ON entries WHEN NEW.policy = 'none' BEGIN",
        ("tests/allocator/test_migrations.py", "-k", "g19"),
    ),
    Mutation(
        "G20",
        "services/kit/problems.py",
        "problem+json for what does not validate",
        "    app.add_exception_handler(RequestValidationError, _invalid)\n",
        "",
        ("tests/allocator/test_contract_fuzz.py", "tests/allocator/test_bad_input.py"),
    ),
    Mutation(
        "G21",
        "services/kit/serve.py",
        "the notice before sockets close",
        "        self._app.state.draining = True\n",
        "",
        ("tests/allocator/test_kit.py", "-k", "g21"),
    ),
    Mutation(
        "G21",
        "services/kit/serve.py",
        "the wait for requests in flight",
        "        await super().shutdown(sockets)\n",
        "        self.force_exit = True\n        await super().shutdown(sockets)\n",
        ("tests/allocator/test_kit.py", "-k", "g21"),
    ),
    Mutation(
        "G22",
        "rollout_budget/client/kept.py",
        "the closes that a successor has to tell",
        "            (state.closing if entry.known else state.unopened)[Key.of(entry.closing)] = entry",
        "            pass",
        ("tests/client/test_kept.py",),
    ),
    Mutation(
        "G23",
        "trainer/rollouts/vllm.py",
        "the look at the version after a call",
        "            await self._require(version)\n        except CallFailed:",
        "        except CallFailed:",
        ("tests/trainer/test_rollouts.py",),
    ),
    Mutation(
        "G23",
        "trainer/weights/holding.py",
        "resuming, whatever happened",
        """        finally:
            await insist(server, "/resume")
    finally:""",
        """        finally:
            pass
    finally:""",
        ("tests/trainer/test_pool.py",),
    ),
    Mutation(
        "G24",
        "trainer/waves.py",
        "the record of a wave",
        "                self._journal.drew(group.opened.group_id, wave)",
        "                pass",
        ("tests/trainer/test_resume.py",),
    ),
    Mutation(
        "G24",
        "rollout_budget/client/recorded.py",
        "the line of a call",
        "            append_line(self._path, line)",
        "            pass",
        ("tests/conformance/test_protocol.py", "-k", "recorded"),
    ),
)
"""In the order of the guarantees."""
