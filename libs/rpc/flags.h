// The flags that every server and every client has, so that they are named and explained alike.
#pragma once

#include "libs/rpc/call_traces.h"
#include "libs/rpc/security.h"
#include "libs/rpc/server.h"

namespace CLI {
class App;
}

namespace espalier::rpc {

// --listen, --health-listen, --metrics-listen, --insecure, --tls-cert, --tls-key, --tls-client-ca,
// --tokens. `options` must outlive the parse.
void AddServerFlags(CLI::App& app, ServerOptions* options);

// --tls-ca, --tls-client-cert, --tls-client-key, --token-file, each with its ESPALIER_… variable.
void AddClientFlags(CLI::App& app, ClientSecurity* security);

// --otlp-endpoint, --otlp-ca, each with its ESPALIER_… variable.
void AddTraceFlags(CLI::App& app, TraceOptions* options);

}  // namespace espalier::rpc
