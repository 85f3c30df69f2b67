"""Goal: tokenizer.json means to others what the tokenizer does. Method: an independent encoder that follows the file's own regular expression,
byte alphabet, vocabulary and merges (the semantics of Hugging Face's tokenizers), compared id by id with ours on random and real text."""
import json
import random
import re
import subprocess
import sys


def byte_alphabet():
    printable = list(range(0x21, 0x7F)) + list(range(0xA1, 0xAD)) + list(range(0xAE, 0x100))
    table = {b: chr(b) for b in printable}
    extra = 0
    for b in range(256):
        if b not in table:
            table[b] = chr(256 + extra)
            extra += 1
    return table


class Encoder:
    def __init__(self, config):
        steps = config["pre_tokenizer"]["pretokenizers"]
        assert config["pre_tokenizer"]["type"] == "Sequence" and steps[0]["behavior"] == "Isolated"
        assert steps[1] == {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        self.regex = re.compile(steps[0]["pattern"]["Regex"])
        self.vocab = config["model"]["vocab"]
        self.ranks = {tuple(m.split(" ")): i for i, m in enumerate(config["model"]["merges"])}
        self.alphabet = byte_alphabet()
        for added in config["added_tokens"]:
            assert self.vocab[added["content"]] == added["id"] and added["special"]

    def pieces(self, text):
        """Isolated: matches and whatever lies between them."""
        at = 0
        for match in self.regex.finditer(text):
            if match.start() > at:
                yield text[at:match.start()]
            yield match.group()
            at = match.end()
        if at < len(text):
            yield text[at:]

    def encode(self, text):
        ids = []
        for piece in self.pieces(text):
            word = [self.alphabet[b] for b in piece.encode("utf-8")]
            while len(word) > 1:
                ranked = [(self.ranks.get(pair, 1 << 30), i) for i, pair in enumerate(zip(word, word[1:]))]
                rank, i = min(ranked)
                if rank == 1 << 30:
                    break
                word[i:i + 2] = [word[i] + word[i + 1]]
            ids += [self.vocab[token] for token in word]
        return ids


def random_text(rng, size):
    alphabet = ["a", "b", "e", "th", "the ", " ", " ", "  ", "\t", "\n", "\r\n", "\n\n", "7", "12", "é", "日本", "😀", "\u00a0",
                "\u2028", "\u0085", ".", ",", "...", "!?", "'s", "_", "`", "{", "[", "@", "\x7f", "\x00", "\x0b", "\x1c", "Z", "z"]
    return "".join(rng.choice(alphabet) for _ in range(size))


def main():
    rng = random.Random(20240607)
    texts = [random_text(rng, 4000) for _ in range(6)]
    texts.append(("Tom has 12 apples. He buys 7 more.\n12 + 7 = 19. The answer is 19.\n" * 40) + "   trailing   ")
    texts.append(open(__file__, encoding="utf-8").read() * 2)
    for number, text in enumerate(texts):
        done = subprocess.run([sys.argv[1], "280"], input=text.encode("utf-8"), capture_output=True, check=True)
        config, ids = done.stdout.decode("utf-8").strip().split("\n")
        expected = Encoder(json.loads(config)).encode(text)
        got = [int(i) for i in ids.split()]
        assert len(json.loads(config)["model"]["vocab"]) == 280
        if got != expected:
            first = next(i for i, (a, b) in enumerate(zip(got + [-1], expected + [-1])) if a != b)
            sys.exit(f"text {number}: id {first} is {got[first:first + 5]}, tokenizer.json says {expected[first:first + 5]}")
    print(f"{len(texts)} texts alike")


if __name__ == "__main__":
    main()
