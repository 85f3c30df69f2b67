// A certificate authority for tests: certificates of any validity, written as PEM files.
#pragma once

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

#include "libs/observe/log.h"

namespace espalier::rpc::testing {

class TestAuthority {
 public:
  explicit TestAuthority(const std::string& name) : name_(name), key_(EVP_EC_gen("P-256")) {
    certificate_ = Make(name, key_, 3600, nullptr);
  }
  ~TestAuthority() {
    X509_free(certificate_);
    EVP_PKEY_free(key_);
  }
  TestAuthority(const TestAuthority&) = delete;
  TestAuthority& operator=(const TestAuthority&) = delete;

  void Write(const std::string& path) const { WriteCertificate(certificate_, path); }

  // A certificate for `host`, good for `seconds` from now (negative: expired), with its key beside
  // it. Each file appears whole.
  void Issue(const std::string& host, long seconds, const std::string& certificate_path,
             const std::string& key_path) const {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* certificate = Make(host, key, seconds, this);
    FILE* file = std::fopen((key_path + ".new").c_str(), "w");
    CHECK_NOTNULL(file);
    CHECK_EQ(PEM_write_PrivateKey(file, key, nullptr, nullptr, 0, nullptr, nullptr), 1);
    std::fclose(file);
    WriteCertificate(certificate, certificate_path + ".new");
    std::filesystem::rename(key_path + ".new", key_path);
    std::filesystem::rename(certificate_path + ".new", certificate_path);
    X509_free(certificate);
    EVP_PKEY_free(key);
  }

 private:
  static void WriteCertificate(X509* certificate, const std::string& path) {
    FILE* file = std::fopen(path.c_str(), "w");
    CHECK_NOTNULL(file);
    CHECK_EQ(PEM_write_X509(file, certificate), 1);
    std::fclose(file);
  }
  static void Extend(X509* certificate, X509* issuer, int id, const std::string& value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value.c_str());
    CHECK_NOTNULL(extension);
    X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
  }
  static X509* Make(const std::string& name, EVP_PKEY* key, long seconds,
                    const TestAuthority* issuer) {
    static long serial = 1;
    X509* certificate = X509_new();
    X509_set_version(certificate, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate), -7200);
    X509_gmtime_adj(X509_getm_notAfter(certificate), seconds);
    X509_set_pubkey(certificate, key);
    X509_NAME* subject = X509_get_subject_name(certificate);
    X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    X509_set_issuer_name(certificate,
                         issuer ? X509_get_subject_name(issuer->certificate_) : subject);
    X509* parent = issuer ? issuer->certificate_ : certificate;
    Extend(certificate, parent, NID_basic_constraints, issuer ? "CA:FALSE" : "critical,CA:TRUE");
    if (issuer) Extend(certificate, parent, NID_subject_alt_name, "DNS:" + name + ",IP:127.0.0.1");
    CHECK_GT(X509_sign(certificate, issuer ? issuer->key_ : key, EVP_sha256()), 0);
    return certificate;
  }

  const std::string name_;
  EVP_PKEY* key_;
  X509* certificate_ = nullptr;
};

}  // namespace espalier::rpc::testing
