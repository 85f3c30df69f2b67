// Flags of servers and clients.
#include "libs/rpc/flags.h"

#include "CLI/CLI.hpp"

namespace espalier::rpc {

void AddServerFlags(CLI::App& app, ServerOptions* options) {
  app.add_option("--listen", options->address,
                 "host:port to serve gRPC on; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--health-listen", options->health_address,
                 "host:port to serve nothing but health on, in plaintext: for probes that speak no "
                 "TLS and have no token");
  app.add_option("--metrics-listen", options->metrics_address,
                 "host:port to serve Prometheus metrics on, at /metrics; none when absent");
  app.add_flag("--insecure", options->insecure, "Serve plaintext beyond loopback");
  app.add_option("--tls-cert", options->security.certificate,
                 "PEM file of this server's certificate; read again when it changes");
  app.add_option("--tls-key", options->security.key, "PEM file of its private key");
  app.add_option("--tls-client-ca", options->security.client_authorities,
                 "PEM file of the authorities whose certificates callers must show (mutual TLS)");
  app.add_option("--tokens", options->security.tokens,
                 "File of token hashes, a line each: NAME ROLE SHA256HEX [EXPIRES]; callers must "
                 "send one of the tokens");
}

void AddClientFlags(CLI::App& app, ClientSecurity* security) {
  app.add_option("--tls-ca", security->authorities,
                 "PEM file of the authorities that sign the servers' certificates; with it, "
                 "connections are TLS")
      ->envname("ESPALIER_TLS_CA");
  app.add_option("--tls-client-cert", security->certificate,
                 "PEM file of a certificate to show to servers that ask for one")
      ->envname("ESPALIER_TLS_CLIENT_CERT");
  app.add_option("--tls-client-key", security->key, "PEM file of its private key")
      ->envname("ESPALIER_TLS_CLIENT_KEY");
  app.add_option("--token-file", security->token_file, "File that holds the token to send")
      ->envname("ESPALIER_TOKEN_FILE");
}

void AddTraceFlags(CLI::App& app, TraceOptions* options) {
  app.add_option("--otlp-endpoint", options->endpoint,
                 "http://host:port or https://host:port of an OpenTelemetry collector (OTLP over "
                 "gRPC) to send spans to; none when absent")
      ->envname("ESPALIER_OTLP_ENDPOINT");
  app.add_option("--otlp-ca", options->authorities,
                 "PEM file of the authorities that sign the collector's certificate; the "
                 "system's own when absent")
      ->envname("ESPALIER_OTLP_CA");
}

}  // namespace espalier::rpc
