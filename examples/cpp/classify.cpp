// Classifies images with a bundle through ONNX Runtime: no Python, no quee. docs/bundle-format.md explains every step.
//
//     classify BUNDLE IMAGES.raw [BUDGET]
//
// IMAGES.raw holds images of the bundle's size one after the other: uint8, rows of pixels, channels last. BUDGET is the
// mean cost per image in units of the static w8a8 network, by default the bundle's own. One line per image goes to standard
// output: number, label, path, cost.
//
// Left out here: resizing (images must have the bundle's size), the digests of the files, and the comparison with the canary.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

// ------------------------------------------------------------------------------------------------ JSON, as quee writes it

struct Json {
    bool null = false;
    double number = 0;
    std::string text;
    std::vector<Json> list;
    std::map<std::string, Json> entries;

    const Json& operator[](const std::string& key) const {
        auto found = entries.find(key);
        if (found == entries.end()) throw std::runtime_error("no entry " + key);
        return found->second;
    }
};

class Reader {
public:
    explicit Reader(std::string text) : text_(std::move(text)) {}

    Json value() {
        Json found;
        switch (next()) {
            case '{':
                for (take(); next() != '}';) {
                    std::string key = string();
                    expect(':');
                    found.entries[key] = value();
                    if (next() == ',') take();
                }
                take();
                break;
            case '[':
                for (take(); next() != ']';) {
                    found.list.push_back(value());
                    if (next() == ',') take();
                }
                take();
                break;
            case '"':
                found.text = string();
                break;
            case 't': case 'f': case 'n':
                found.null = text_[at_] == 'n';
                found.number = text_[at_] == 't';
                at_ += text_[at_] == 'f' ? 5 : 4;
                break;
            default: {
                char* end;
                found.number = std::strtod(text_.c_str() + at_, &end);
                if (end == text_.c_str() + at_) throw std::runtime_error("not JSON");
                at_ = end - text_.c_str();
            }
        }
        return found;
    }

private:
    char next() {
        at_ = text_.find_first_not_of(" \t\r\n", at_);
        if (at_ == std::string::npos) throw std::runtime_error("JSON ends too early");
        return text_[at_];
    }
    char take() { return text_.at(at_++); }
    void expect(char wanted) {
        if (next() != wanted) throw std::runtime_error("not JSON");
        take();
    }
    std::string string() {
        std::string found;
        expect('"');
        for (char c; (c = take()) != '"';) {
            if (c != '\\') { found += c; continue; }
            static const std::map<char, char> plain = {{'b', '\b'}, {'f', '\f'}, {'n', '\n'}, {'r', '\r'}, {'t', '\t'}};
            c = take();
            found += plain.count(c) ? plain.at(c) : c;  // quee writes UTF-8, and \u only for control characters
        }
        return found;
    }

    std::string text_;
    size_t at_ = 0;
};

std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// ------------------------------------------------------------------------------------------------ tensors by name

using Tensors = std::map<std::string, Ort::Value>;

class Graph {
public:
    Graph(Ort::Env& env, const std::string& path) : session_(env, path.c_str(), options()) {
        Ort::AllocatorWithDefaultOptions memory;
        for (size_t i = 0; i < session_.GetInputCount(); ++i) in_.push_back(session_.GetInputNameAllocated(i, memory).get());
        for (size_t i = 0; i < session_.GetOutputCount(); ++i) out_.push_back(session_.GetOutputNameAllocated(i, memory).get());
    }

    // Run on the tensors that it takes; others are ignored.
    Tensors operator()(const Tensors& given) {
        std::vector<const char*> in, out;
        std::vector<const OrtValue*> values;
        for (const auto& name : in_) {
            if (!given.count(name)) throw std::runtime_error("a graph takes " + name + ", which is unknown here");
            in.push_back(name.c_str());
            values.push_back(given.at(name));
        }
        for (const auto& name : out_) out.push_back(name.c_str());
        std::vector<OrtValue*> made(out.size(), nullptr);
        Ort::ThrowOnError(Ort::GetApi().Run(
            session_, nullptr, in.data(), values.data(), in.size(), out.data(), out.size(), made.data()));
        Tensors found;
        for (size_t i = 0; i < made.size(); ++i) found.emplace(out_[i], Ort::Value(made[i]));
        return found;
    }

private:
    static Ort::SessionOptions options() {
        Ort::SessionOptions found;
        found.SetIntraOpNumThreads(1);
        // Without VNNI, sums of products saturate at 16 bits unless this is set.
        found.AddConfigEntry("session.x64quantprecision", "1");
        // It rounds the biases of convolutions, which at few bits is far from what was simulated.
        found.AddConfigEntry("optimization.disable_specified_optimizers", "WeightBiasQuantization");
        return found;
    }

    Ort::Session session_;
    std::vector<std::string> in_, out_;
};

template <typename T>
Ort::Value tensor(std::vector<T>& values, std::vector<int64_t> shape) {
    static const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    return Ort::Value::CreateTensor<T>(memory, values.data(), values.size(), shape.data(), shape.size());
}

// ------------------------------------------------------------------------------------------------ the bundle

// A number in [0, 1) drawn from an image's own pixels: it picks one of the two points that a budget lies between.
double drawn(const std::vector<float>& image) {
    const uint64_t base = 0x9E3779B97F4A7C15u;
    uint64_t power = 1, id = 0;
    const size_t step = image.size() % 2 ? 1 : 2;  // words of 4 bytes where the pixels do not fill words of 8
    for (size_t i = 0; i < image.size(); i += step) {
        uint64_t word = 0;  // little-endian
        std::memcpy(&word, &image[i], step * sizeof(float));
        id += word * (power *= base);
    }
    id = (id ^ (id >> 30)) * 0xBF58476D1CE4E5B9u;
    id = (id ^ (id >> 27)) * 0x94D049BB133111EBu;
    id ^= id >> 31;
    return static_cast<double>(id >> 11) * 0x1p-53;
}

struct Served {
    size_t low, high;
    double share;  // of the images at `high`
};

// The operating points that serve a budget.
Served served(const std::vector<Json>& points, double budget) {
    auto taken = [&](size_t i) { return points[i]["taken"].null ? i : static_cast<size_t>(points[i]["taken"].number); };
    size_t within = 0;
    while (within < points.size() && points[within]["cost"].number <= budget * (1 + 1e-9)) ++within;
    if (within == 0) return {0, 0, 0.0};  // the budget cannot be met
    const size_t low = taken(within - 1), high = within;
    if (high == points.size() || taken(high) != high) return {low, low, 0.0};
    const double from = points[low]["cost"].number, to = points[high]["cost"].number;
    return {low, high, std::max((budget - from) / (to - from), 0.0)};
}

class Bundle {
public:
    explicit Bundle(const std::string& folder)
        : folder_(folder), facts_(Reader(contents(folder + "/bundle.json")).value()),
          tree_(Reader(contents(folder + "/tree.json")).value()) {
        if (facts_["format"].number != 7) throw std::runtime_error("this reads bundles of format 7");
    }

    const Json& facts() const { return facts_; }

    struct Answer {
        std::string label, path;
        double cost;
    };

    // The answer to a prepared image (channels, height, width) under a budget.
    Answer classify(std::vector<float>& image, const std::vector<int64_t>& shape, double budget) {
        const auto& points = facts_["operating_points"].list;
        const Served at = served(points, budget);
        const bool second = at.share > 0 && (at.share >= 1 || drawn(image) < at.share);
        const Json& point = points[second ? at.high : at.low];

        std::vector<int64_t> node = {start(static_cast<size_t>(point["first"].number))};
        std::vector<double> knob = {point["trade_off"].number}, most = {std::numeric_limits<double>::infinity()};
        Tensors x, kept;
        x.emplace("x", tensor(image, {1, shape[0], shape[1], shape[2]}));
        for (size_t gate = 1;; ++gate) {
            const std::string path = tree_["nodes"].list[node[0]]["path"].text;
            Tensors given = graph(segment(path, gate))(x);
            for (auto& [name, value] : kept) given.emplace(name + "_before", std::move(value));
            given.emplace("node", tensor(node, {1}));
            given.emplace("knob", tensor(knob, {1}));
            given.emplace("max_cost", tensor(most, {1}));
            Tensors said = graph(facts_["gates"][point["policy"].text].list[gate - 1].text)(given);
            if (said.at("step").GetTensorData<int64_t>()[0] < 0) {
                const double* scores = said.at("log_probs").GetTensorData<double>();
                const auto& classes = facts_["classes"].list;
                const size_t best = std::max_element(scores, scores + classes.size()) - scores;
                return {classes[best].text, path, said.at("cost").GetTensorData<double>()[0]};
            }
            node[0] = said.at("next").GetTensorData<int64_t>()[0];
            x.clear();
            x.emplace("x", std::move(given.at("state")));
            kept = std::move(said);
        }
    }

private:
    int64_t start(size_t first) const {
        const std::string name = tree_["precisions"].list[first].text;
        for (const auto& node : tree_["nodes"].list)
            if (node["path"].text == name) return static_cast<int64_t>(node["node"].number);
        throw std::runtime_error("no path begins with " + name);
    }

    std::string segment(const std::string& path, size_t gate) const {
        std::string precision = path.substr(path.rfind('-') + 1);  // of the last segment
        if (precision == "bf16" || precision == "fp16") precision = "fp32";
        return facts_["graphs"][precision].list[gate - 1].text;
    }

    Graph& graph(const std::string& name) {
        auto& found = graphs_[name];
        if (!found) found = std::make_unique<Graph>(env_, folder_ + "/" + name);
        return *found;
    }

    std::string folder_;
    Json facts_, tree_;
    Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "classify"};
    std::map<std::string, std::unique_ptr<Graph>> graphs_;
};

// A uint8 image (height, width, channels) as the network takes it: float32 (channels, height, width).
std::vector<float> prepared(const uint8_t* pixels, const std::vector<int64_t>& shape, const Json& preprocessing) {
    const int64_t channels = shape[0], area = shape[1] * shape[2];
    const bool bgr = preprocessing.entries.count("channel_order") && preprocessing["channel_order"].text == "bgr";
    std::vector<float> found(channels * area);
    for (int64_t c = 0; c < channels; ++c) {
        const auto mean = static_cast<float>(preprocessing["mean"].list[c].number);
        const auto deviation = static_cast<float>(preprocessing["std"].list[c].number);
        for (int64_t i = 0; i < area; ++i) {
            const float unit = static_cast<float>(pixels[i * channels + (bgr ? channels - 1 - c : c)]) / 255.0f;
            found[c * area + i] = (unit - mean) / deviation;
        }
    }
    return found;
}

int main(int count, char** words) try {
    if (count < 3 || count > 4) {
        std::fprintf(stderr, "usage: %s BUNDLE IMAGES.raw [BUDGET]\n", words[0]);
        return 2;
    }
    Bundle bundle(words[1]);
    const Json& preprocessing = bundle.facts()["preprocessing"];
    const std::vector<int64_t> shape = {
        static_cast<int64_t>(preprocessing["channels"].number),
        static_cast<int64_t>(preprocessing["size"].list[0].number),
        static_cast<int64_t>(preprocessing["size"].list[1].number),
    };
    const double budget = count > 3 ? std::stod(words[3]) : bundle.facts()["budget"].number;
    const std::string raw = contents(words[2]);
    const size_t each = shape[0] * shape[1] * shape[2];
    if (raw.empty() || raw.size() % each) {
        std::fprintf(stderr, "%s: %zu bytes are no images of %zu\n", words[2], raw.size(), each);
        return 4;
    }
    for (size_t number = 0; number < raw.size() / each; ++number) {
        auto image = prepared(reinterpret_cast<const uint8_t*>(raw.data()) + number * each, shape, preprocessing);
        const auto answer = bundle.classify(image, shape, budget);
        std::printf("%zu\t%s\t%s\t%.9g\n", number, answer.label.c_str(), answer.path.c_str(), answer.cost);
    }
    return 0;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
