"""Which pod may open which port of which other pod, by rendered NetworkPolicies: both ends must allow it."""


def matches(selector, labels):
    """A label selector; only matchLabels are rendered by the chart."""
    assert set(selector or {}) <= {"matchLabels"}, selector
    return all(labels.get(key) == value for key, value in (selector or {}).get("matchLabels", {}).items())


def peer_matches(peer, labels, namespace_labels, same_namespace):
    if "namespaceSelector" in peer:
        return matches(peer["namespaceSelector"], namespace_labels) and matches(peer.get("podSelector"), labels)
    return same_namespace and matches(peer["podSelector"], labels)


def port_matches(ports, port, protocol):
    if not ports:
        return True
    return any(one.get("protocol", "TCP") == protocol and ("port" not in one or one["port"] <= port <= one.get("endPort", one["port"]))
               for one in ports)


def direction(policies, kind, side, labels):
    """The rules of the policies that select a pod for Ingress or Egress; None when none does, so that all is open."""
    chosen = [one for one in policies if kind in one["spec"]["policyTypes"] and matches(one["spec"]["podSelector"], labels)]
    return None if not chosen else [rule for one in chosen for rule in one["spec"].get(side) or []]


def may(policies, source, target, port, protocol="TCP"):
    """`source` and `target`: dicts of labels, namespace_labels and inside (the release's namespace)."""
    egress = direction(policies, "Egress", "egress", source["labels"]) if source["inside"] else None
    ingress = direction(policies, "Ingress", "ingress", target["labels"]) if target["inside"] else None
    same = source["inside"] and target["inside"]
    out = egress is None or any(port_matches(rule.get("ports"), port, protocol) and
                                ("to" not in rule or any(peer_matches(peer, target["labels"], target["namespace_labels"], same) for peer in rule["to"]))
                                for rule in egress)
    in_ = ingress is None or any(port_matches(rule.get("ports"), port, protocol) and
                                 ("from" not in rule or any(peer_matches(peer, source["labels"], source["namespace_labels"], same) for peer in rule["from"]))
                                 for rule in ingress)
    return out and in_
