// Goal: no answer costs more than its budget, whatever it holds. Method: texts that ask for
// unbounded work, on either side of several others; each call is timed, and the process must not
// grow. A verdict is never an accident: none of these equals what it is compared with.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "libs/reward/reward.h"

namespace espalier::reward {
namespace {

std::string Repeat(const std::string& text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::vector<std::string> Hostile() {
  std::string tower = "9";
  for (int i = 0; i < 30; ++i) tower = "9^{" + tower + "}";
  std::string fractions = "1";
  for (int i = 0; i < 50; ++i) fractions = "\\frac{1}{1+" + fractions + "}";
  std::string sets = "\\{1\\}";
  for (int i = 0; i < 200; ++i)
    sets += "\\cup(" + std::to_string(i) + "," + std::to_string(i + 1) + ")";
  std::mt19937 random(3);
  std::string bytes;
  for (int i = 0; i < 3000; ++i) bytes.push_back(static_cast<char>(random() % 256));
  std::string printable;
  for (int i = 0; i < 3000; ++i) printable.push_back(static_cast<char>(32 + random() % 95));
  return {tower,
          fractions,
          sets,
          bytes,
          printable,
          "1" + Repeat("\\pm 1", 700),
          std::string(400, '(') + "1" + std::string(400, ')'),
          std::string(400, '[') + "1" + std::string(400, ']'),
          "(10^8)!",
          "100000000!",
          "((((((((((5!)!)!)!)!)!)!)!)!)!",
          "100000!!",
          "\\binom{10000000}{5000000}",
          "\\binom{100000}{50000}",
          "C(99999999,44444444)",
          "(x+y+z+w+1)^{200}",
          "((x+1)^{60}+y)^{60}",
          "(\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7}+\\sqrt{11})^{150}",
          "(1+i)^{100000000}",
          "i^{10^{30}}",
          "10^{10^{10^{10}}}",
          "2^{100000000}",
          "\\sin(10^{10^{9}})",
          "e^{e^{e^{e^{10}}}}",
          "\\sum_{k=1}^{10^9} \\frac{1}{k}",
          "\\sum_{k=1}^{1000} \\frac{1}{k}",
          "\\sum_{k=1}^{999} k^{999}",
          "\\sum_{k=1}^{10^9} k^k",
          "\\sum_{i=1}^{900}\\sum_{j=1}^{900}\\sum_{k=1}^{900} \\frac{1}{i+j+k}",
          "\\prod_{k=1}^{10^9} k",
          "\\prod_{k=1}^{900} k!",
          "\\sum_{k=1}^{50} (x+y+k)^{12}",
          "\\sum_{k=1}^{n} (k+x+y+z)^{12}",
          "\\sum_{k=1}^{\\infty} \\frac{1}{k}",
          "\\sum_{k=1}^{n} \\sum_{j=1}^{k} \\sum_{l=1}^{j} \\frac{1}{l!}",
          "\\log_{1.0001} 10^{300}",
          "\\sqrt{" + std::string(150, '7') + "}",
          "\\sqrt{" + std::string(3900, '7') + "}",
          "\\sqrt[1000000000]{2}",
          "1/(1/(1/(1/0)))",
          "0^{-1}",
          "\\frac{1}{0}",
          std::string(3999, '!'),
          std::string(3000, '-') + "1",
          Repeat("\\frac", 700),
          Repeat("\\text{", 600),
          Repeat("$", 3000),
          Repeat("1,", 1900) + "1",
          Repeat("x_1=1,", 600) + "x=1",
          Repeat("1\\le ", 700) + "x",
          Repeat("|", 2000),
          Repeat("twenty ", 28),
          Repeat("\xE2\x88\x9A", 1300),
          Repeat("\xD9\xA1", 100'000),
          std::string(100'000, '{'),
          std::string(100'000, '('),
          std::string(100'000, '9') + "1",
          "\\boxed{" + std::string(100'000, '{'),
          Repeat("\\boxed{", 20'000),
          "0." + std::string(3000, '3') + "...",
          "0.00000000000000000000000000001e-4000",
          "1e4000",
          "1e999999999",
          std::string(70, '1') + "_{16}",
          "\\begin{vmatrix}" + Repeat("1&2&3&4&5&6&7\\\\", 7) + "\\end{vmatrix}",
          "\\begin{pmatrix}" + Repeat(Repeat("1&", 20) + "1\\\\", 20) + "\\end{pmatrix}"};
}

long PeakKilobytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

// Of this thread, so that other work on the machine does not count.
double Seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

void JudgeAll(double* slowest, std::string* slowest_text) {
  for (const std::string& text : Hostile()) {
    for (const std::string other : {"5", "x^2+1", "\\sqrt{2}", "(0, 1)", "3 km"}) {
      for (const bool swap : {false, true}) {
        const double start = Seconds();
        const Verification verification =
            swap ? VerifyAnswer(text, other) : VerifyAnswer(other, text);
        const Extraction extraction = ExtractAnswer(text);
        const double took = Seconds() - start;
        EXPECT_NE(Verdict::kCorrect, verification.verdict) << text.substr(0, 80) << " ~ " << other;
        EXPECT_FALSE(verification.reason.empty()) << text.substr(0, 80);
        if (took > *slowest) {
          *slowest = took;
          *slowest_text = text.substr(0, 80) + " ~ " + other + (swap ? " (as reference)" : "");
        }
      }
    }
  }
}

TEST(VerifyBounds, HostileTextsCostMillisecondsAndNoMemory) {
  double slowest = 0;
  std::string text;
  JudgeAll(&slowest, &text);
  const long before = PeakKilobytes();
  for (int i = 0; i < 2; ++i) JudgeAll(&slowest, &text);
#ifndef __SANITIZE_ADDRESS__  // which holds freed memory back
  EXPECT_LT(PeakKilobytes() - before, 16 * 1024) << "kilobytes grown";
#else
  (void)before;
#endif
  EXPECT_LT(slowest, ESPALIER_HOSTILE_SECONDS) << text;
  RecordProperty("slowest_ms", std::to_string(slowest * 1000));
  std::printf("slowest %.2f ms: %s\n", slowest * 1000, text.c_str());
}

TEST(VerifyBounds, AnyThreadMayVerify) {
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([] {
      double slowest = 0;
      std::string text;
      JudgeAll(&slowest, &text);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace espalier::reward
