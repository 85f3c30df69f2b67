"""Goal: alert rules, runbook and dashboard fit the metrics that the services have: no query of a metric or label that
does not exist, no alert without its section. Method: promtool for rules and their stories; the golden file for names."""
import json
import pathlib
import re
import shutil
import subprocess
import unittest

FOLDER = pathlib.Path("deploy/monitoring")
PROMETHEUS_OWN = {"job", "instance", "le"}


def golden():
    """{series name: labels} of everything that a scrape can hold."""
    series = {}
    for line in pathlib.Path("tests/data/metrics.golden").read_text().splitlines():
        name, kind, _, labels, _ = line.split("\t")
        labels = set(filter(None, labels.split(",")))
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            series[name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return series


def dashboard_queries():
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


def alert_queries():
    """{alert: the text of its rule}; the file is ours, and its layout is plain."""
    text = (FOLDER / "alerts.yaml").read_text()
    rules = re.split(r"^      - alert: ", text, flags=re.MULTILINE)[1:]
    return {rule.split("\n", 1)[0].strip(): rule.split("\n", 1)[1] for rule in rules}


class Monitoring(unittest.TestCase):
    def promtool(self, *arguments):
        self.assertIsNotNone(shutil.which("promtool"), "promtool is not installed: it comes with Debian's package "
                             "prometheus, which deploy/packages.txt lists")
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_rules_are_valid(self):
        self.promtool("check", "rules", str(FOLDER / "alerts.yaml"))

    def test_rules_fire_and_stay_silent(self):
        self.promtool("test", "rules", str(FOLDER / "alerts_test.yaml"))

    def test_every_rule_has_both_stories(self):
        stories = (FOLDER / "alerts_test.yaml").read_text()
        for alert in alert_queries():
            self.assertIn(f"name: {alert} fires\n", stories)
            self.assertIn(f"name: {alert} stays silent\n", stories)

    def check_query(self, where, query):
        """Names and labels of `query` exist."""
        series = golden()
        names = set(re.findall(r"\bespalier_\w+", query))
        for name in names:
            self.assertIn(name, series, f"{where}: no service has this metric")
        for name, selector in re.findall(r"\b(espalier_\w+)\{([^}]*)\}", query):
            for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
                self.assertIn(label, series[name] | PROMETHEUS_OWN, f"{where}: {name} has no such label")
        known = set().union(*(series[name] for name in names)) | PROMETHEUS_OWN
        for group in re.findall(r"\b(?:by|ignoring|on)\s*\(([^)]*)\)", query):
            for label in filter(None, re.split(r"[,\s]+", group)):
                self.assertIn(label, known, f"{where}: grouped by a label that nothing has")

    def test_alerts_ask_for_what_exists(self):
        alerts = alert_queries()
        self.assertGreater(len(alerts), 10)
        for alert, rule in alerts.items():
            expression = rule[:rule.index("        labels:")]
            self.assertRegex(expression, r"espalier_|up\{", alert)
            self.check_query(alert, expression)

    def test_dashboard_asks_for_what_exists(self):
        titles = set()
        for where, query in dashboard_queries():
            titles.add(where)
            self.assertIn("espalier_", query, where)
            self.check_query(where, query)
        self.assertGreater(len(titles), 15)

    def test_dashboard_shows_every_metric(self):
        """A metric that nobody looks at is named here, or is not worth its scrape."""
        shown = " ".join(query for _, query in dashboard_queries())
        elsewhere = {"espalier_run_steps_total", "espalier_worker_rank", "espalier_worker_step",
                     "espalier_worker_tokens_total", "espalier_worker_tokens_per_second", "espalier_worker_skipped_steps"}
        for name in {re.sub(r"_(bucket|sum|count)$", "", series) for series in golden()} - elsewhere:
            self.assertRegex(shown, rf"\b{name}(_bucket|_sum|_count)?\b")

    def test_every_alert_has_its_section_and_every_section_its_alert(self):
        sections = re.findall(r"^## (\w+)$", (FOLDER / "RUNBOOK.md").read_text(), flags=re.MULTILINE)
        alerts = alert_queries()
        self.assertEqual(sorted(sections), sorted(alerts))
        for alert, rule in alerts.items():
            self.assertIn(f"runbook_url: RUNBOOK.md#{alert.lower()}\n", rule + "\n")
            self.assertRegex(rule, r"severity: (warning|critical)", alert)


if __name__ == "__main__":
    unittest.main(verbosity=2)
