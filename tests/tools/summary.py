#!/usr/bin/env python3
"""Counts what ran: every GoogleTest case of the reports, and every test program of another kind as one.

summary.py REPORTS  reads REPORTS/ctest.xml and REPORTS/gtest/*.xml, prints the failures and, last, "N passed, N failed".
A program that ended badly without a failed case of its own (a crash, a timeout) counts as one failure.
"""
import pathlib
import sys
import xml.etree.ElementTree as xml


def gtest_cases(path):
    """(name, failed) of each case that ran in one GoogleTest report."""
    for case in xml.parse(path).getroot().iter("testcase"):
        if case.get("status", "run") == "run" and case.find("skipped") is None:
            yield f"{case.get('classname')}.{case.get('name')}", case.find("failure") is not None


def main(reports):
    passed, failures = 0, []
    ctest = reports / "ctest.xml"
    programs = xml.parse(ctest).getroot().iter("testcase") if ctest.exists() else []
    for program in programs:
        if program.get("status") in ("disabled", "notrun"):
            if program.get("status") == "notrun":
                failures.append(f"{program.get('name')} (did not start)")
            continue
        name = program.get("name")
        failed = program.get("status") != "run"
        report = reports / "gtest" / f"{name}.xml"
        cases = list(gtest_cases(report)) if report.exists() else []
        bad = [case for case, case_failed in cases if case_failed]
        passed += len(cases) - len(bad)
        failures += [f"{name}: {case}" for case in bad]
        if failed and not bad:
            failures.append(name)
        elif not failed and not cases:
            passed += 1
    for failure in failures:
        print(f"FAILED {failure}")
    print(f"{passed} passed, {len(failures)} failed")
    return 1 if failures or passed == 0 else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
