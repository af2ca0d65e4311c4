// As much of jsoncpp as Topology::toJson uses, so that the tests need not install it: a value that writes
// itself.
#ifndef CPP_TESTS_FAKE_JSON_H
#define CPP_TESTS_FAKE_JSON_H

#include <map>
#include <string>
#include <vector>

namespace Json {

enum ValueType { nullValue, stringValue, arrayValue, objectValue };

class Value {
   public:
    Value(ValueType type = nullValue) : type_(type) {}
    Value(const std::string &text) : type_(stringValue), text_(text) {}
    Value &append(const Value &value) { return list_.emplace_back(value); }
    Value &operator[](const std::string &key) { return members_[key]; }

    std::string text() const {
        std::string all;
        const auto add = [&](const std::string &part) { all += (all.empty() ? "" : ",") + part; };
        if (type_ == stringValue) return '"' + text_ + '"';
        for (const auto &value : list_) add(value.text());
        for (const auto &[key, value] : members_) add('"' + key + "\":" + value.text());
        return type_ == arrayValue ? '[' + all + ']' : '{' + all + '}';
    }

   private:
    ValueType type_;
    std::string text_;
    std::vector<Value> list_;
    std::map<std::string, Value> members_;
};

} // namespace Json

#endif
